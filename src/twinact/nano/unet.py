"""The denoiser of nano: a UNet with cross-attention on the frozen text tower, trained on cached latents."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTokenizer

from twinact.backbones.noising import DDPMNoising
from twinact.nano.data import described, drawn_part, picture_batches
from twinact.nano.fit import fit_module
from twinact.nano.heatmaps import heat_loss, limb_map
from twinact.nano.recipe import Recipe
from twinact.world.draw import joints
from twinact.world.skeleton import JOINT_NAMES

STREAM = 3


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    """An untrained UNet; the two lower resolutions attend to the text."""
    torch.manual_seed(recipe.seed)
    return UNet2DConditionModel(
        sample_size=recipe.image_size // 4,
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=recipe.unet_channels,
        layers_per_block=recipe.unet_layers,
        cross_attention_dim=recipe.text_width,
        attention_head_dim=8,
        norm_num_groups=16,
    )


def build_scheduler() -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (Lu et al. 2022) with v-prediction and zero terminal SNR, so that the darkest and brightest pictures
    can be drawn; 12 of its steps draw what 25 of DDIM do.
    """
    return DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # the stock pipeline asks for it; with trailing spacing it changes nothing
    )


def cache_latents(
    recipe: Recipe, vae: AutoencoderKL, folder: Path, workers: int, report: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw and encode `distinct_pictures` once.

    Returns:
        Memory maps of the scaled latents (n, c, h, w) float16 and of the figure's share of each latent cell
        (n, 1, h, w) uint8 (0 to 255).
    """
    count, size = recipe.distinct_pictures, recipe.image_size // 4
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "latents.npy", folder / "masks.npy"
    done = folder / "count.txt"
    start = int(done.read_text()) if done.exists() else 0
    mode = "r+" if start else "w+"
    shapes = ((count, recipe.latent_channels, size, size), np.float16), ((count, 1, size, size), np.uint8)
    latents, masks = (
        np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        for path, (shape, dtype) in zip(paths, shapes, strict=True)
    )
    batch_size, began = 250, time.monotonic()
    batches = picture_batches(
        recipe, drawn_part(recipe), batch_size, count, stream=STREAM, start=start, workers=workers
    )
    for number, batch in enumerate(batches):
        with torch.no_grad(), torch.autocast(vae.device.type, torch.bfloat16):
            encoded = vae.encode(batch.images.to(vae.device)).latent_dist.mode() * vae.config.scaling_factor
        end = start + len(batch.scenes)
        latents[start:end] = encoded.float().cpu().numpy()
        masks[start:end] = (F.adaptive_avg_pool2d(batch.masks, size) * 255).round().byte().numpy()
        start = end
        if number % 20 == 19 or start == count:
            latents.flush()
            masks.flush()
            done.write_text(str(start))
            rate = (number + 1) * batch_size / (time.monotonic() - began)
            report(f"latents: {start}/{count} {rate:.0f}/s {(count - start) / rate / 60:.1f} min left")
    return latents, masks


class _Guided(nn.Module):
    """A UNet with a head that reads heat maps of the joints off the output of its second stage upwards."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet
        width = unet.config.block_out_channels[-2]
        self.head = nn.Conv2d(width, 4 * len(JOINT_NAMES), 1)
        self._features: Tensor | None = None
        self._hook = unet.up_blocks[1].register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        self._features = output

    def forward(self, x_t: Tensor, t: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction and logits (b, 17, 2 h, 2 w) of where each joint is."""
        prediction = self.unet(x_t, t, encoder_hidden_states=hidden).sample
        return prediction, F.pixel_shuffle(self.head(self._features), 2)

    def release(self) -> None:
        """Leave the UNet as a stock one."""
        self._hook.remove()


def train_unet(
    recipe: Recipe,
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    folder: Path,
    workers: int,
    report: Callable[[str], None],
    preview: Callable[[UNet2DConditionModel, int], None] | None = None,
) -> None:
    """Train `unet` with the denoising loss, weighted towards the figure, on (latents, caption) pairs.

    An auxiliary head reads the joints off features half way up, at every noise level, and is thrown away afterwards.
    From noise alone the words are all there is to read them from, so they matter early (compare the alignment of
    features in REPA, Yu et al. 2024; the world knows the joints, which is more than a pretrained encoder would).
    """
    latents, masks = cache_latents(recipe, vae, folder / "latents", workers, report)
    report("unet: captions")
    device = vae.device
    guided = _Guided(unet).to(device)
    if device.type == "cpu":  # the backward pass of fused attention takes a third of a step there
        unet.set_attn_processor(AttnProcessor())
    else:
        guided.compile()
    noising = DDPMNoising(build_scheduler().alphas_cumprod.to(device), "v_prediction")
    text.requires_grad_(False).eval()
    steps = _Steps(recipe, latents, masks, tokenizer)

    def batches(step: int) -> Iterator[dict[str, Tensor]]:
        return iter(
            DataLoader(
                steps, batch_size=None, sampler=range(step, recipe.unet.steps), num_workers=workers,
                pin_memory=device.type == "cuda",
            )
        )  # fmt: skip

    def loss(step: int, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = {name: value.to(device, non_blocking=True) for name, value in seen.items()}
        mask = batch["mask"].float() / 255
        t = noising.sample_t(len(mask), torch.Generator().manual_seed(recipe.seed + step), recipe.noise_bias)
        noised = noising.add(batch["x_0"].float(), batch["noise"], t)
        with torch.autocast(device.type, torch.bfloat16):
            hidden = text(input_ids=batch["ids"]).last_hidden_state
            prediction, heat = guided(noised.x_t, noised.t, hidden)
        limbs = limb_map(batch["joints"], mask.shape[-1])
        weight = 1 + (recipe.figure_weight - 1) * mask + recipe.limbs_weight * limbs
        denoising = (weight * (prediction.float() - noised.target).square()).mean() / weight.mean()
        seen_joints = heat_loss(heat.float(), batch["joints"])
        return {"loss": denoising + recipe.joints_weight * seen_joints, "denoising": denoising, "joints": seen_joints}

    def show(step: int) -> None:
        if preview is not None:
            preview(unet, step)

    fit_module(guided, batches, loss, recipe.unet, folder, report, show)
    guided.release()
    if device.type == "cpu":
        unet.set_default_attn_processor()


class _Steps(Dataset):
    """What each step sees, so that processes can prepare it: of some pictures the latents, masks, token ids and joints,
    and the noise for them.
    """

    def __init__(self, recipe: Recipe, latents: np.ndarray, masks: np.ndarray, tokenizer: CLIPTokenizer) -> None:
        self.recipe, self.latents, self.masks = recipe, latents, masks
        part = drawn_part(recipe)
        items = [described(recipe, part, index, STREAM) for index in range(recipe.distinct_pictures)]
        captions = ["", *(item.caption for item in items)]
        self.ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.int()
        self.joints = np.stack([joints(item.scene) for item in items]).astype(np.float32)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        recipe, chosen = self.recipe, _visit(self.recipe, step)
        rng = np.random.default_rng([recipe.seed, STREAM, 1, step])
        told = rng.random(len(chosen)) >= recipe.caption_dropout
        x_0 = torch.from_numpy(self.latents[chosen])
        return {
            "x_0": x_0,
            "mask": torch.from_numpy(self.masks[chosen]),
            "ids": self.ids[torch.from_numpy(np.where(told, chosen + 1, 0))],
            "joints": torch.from_numpy(self.joints[chosen]),
            "noise": torch.from_numpy(rng.standard_normal(x_0.shape, np.float32)),
        }


def _visit(recipe: Recipe, step: int) -> np.ndarray:
    count, size = recipe.distinct_pictures, recipe.unet.batch_size
    positions = np.arange(step * size, (step + 1) * size)
    chosen = np.empty(size, dtype=np.int64)
    for epoch in np.unique(positions // count):
        inside = positions // count == epoch
        order = np.random.default_rng([recipe.seed, STREAM, 2, epoch]).permutation(count)
        chosen[inside] = order[positions[inside] % count]
    return np.sort(chosen)
