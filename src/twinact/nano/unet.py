"""The denoiser of nano: a UNet with cross-attention on the frozen text tower, trained on cached latents."""

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from twinact.backbones.noising import DDPMNoising
from twinact.nano.data import drawn_part, picture_batches
from twinact.nano.fit import fit_module
from twinact.nano.heatmaps import heat_loss, limb_map
from twinact.nano.recipe import Recipe
from twinact.world.skeleton import JOINT_NAMES

STREAM = 3
PICTURES = "pictures"
"""Folder, within that of the UNet's run, that keeps latents and captions."""


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
        attention_head_dim=recipe.unet_heads,  # the number of heads, whatever diffusers calls it
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


def cache_pictures(
    recipe: Recipe, vae: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path, workers: int,
    report: Callable[[str], None],
) -> dict[str, Tensor]:  # fmt: skip
    """Draw and encode `distinct_pictures` once; goes on where it was stopped.

    Returns:
        Memory maps by name: ``latents`` (n, c, h, w) float16, scaled; ``masks`` (n, 1, h, w) uint8, the figure's share
        of each latent cell from 0 to 255; ``joints`` (n, 17, 2) float32 in picture units; ``ids`` (n, l) int32 of the
        captions.
    """
    count, size = recipe.distinct_pictures, recipe.image_size // 4
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "count.txt"
    start = int(done.read_text()) if done.exists() else 0
    shapes = {
        "latents": ((recipe.latent_channels, size, size), np.float16),
        "masks": ((1, size, size), np.uint8),
        "joints": ((len(JOINT_NAMES), 2), np.float32),
        "ids": ((recipe.max_tokens,), np.int32),
    }
    maps = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="r+" if start else "w+", dtype=dtype, shape=(count, *shape)
        )
        for name, (shape, dtype) in shapes.items()
    }
    batch_size, began = 250, time.monotonic()
    batches = picture_batches(
        recipe, drawn_part(recipe), batch_size, count, stream=STREAM, start=start, workers=workers
    )
    for number, batch in enumerate(batches):
        with torch.no_grad(), torch.autocast(vae.device.type, torch.bfloat16):
            encoded = vae.encode(batch.images.to(vae.device)).latent_dist.mode() * vae.config.scaling_factor
        now = slice(start, start + len(batch.scenes))
        maps["latents"][now] = encoded.float().cpu().numpy()
        maps["masks"][now] = (F.adaptive_avg_pool2d(batch.masks, size) * 255).round().byte().numpy()
        maps["joints"][now] = batch.joints.numpy()
        maps["ids"][now] = token_ids(tokenizer, [item.caption for item in batch.scenes]).numpy()
        start = now.stop
        if number % 20 == 19 or start == count:
            for array in maps.values():
                array.flush()
            done.write_text(str(start))
            rate = (number + 1) * batch_size / (time.monotonic() - began)
            report(f"pictures: {start}/{count} {rate:.0f}/s {(count - start) / rate / 60:.1f} min left")
    return {name: torch.from_numpy(array) for name, array in maps.items()}


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Ids (b, l) of captions, padded to the context length."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


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


class Denoising:
    """The denoising loss on cached pictures, weighted towards the figure and most towards the bones of its limbs."""

    def __init__(
        self,
        recipe: Recipe,
        pictures: dict[str, Tensor],
        text: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        batch_size: int,
    ) -> None:
        self.recipe, self.text, self.batch_size = recipe, text.requires_grad_(False).eval(), batch_size
        self.device = text.device
        if self.device.type == "cuda":  # a GPU has room for all, and would wait for what comes from outside
            pictures = {name: values.to(self.device) for name, values in pictures.items()}
        self.pictures = pictures
        self.unsaid = token_ids(tokenizer, [""]).to(self.device)
        self.noising = DDPMNoising(build_scheduler().alphas_cumprod.to(self.device), "v_prediction")

    def batch(self, step: int) -> dict[str, Tensor]:
        """What a step sees, by its number alone: some captions are empty, for classifier-free guidance."""
        chosen = _visit(self.recipe, step, self.batch_size).to(self.device)
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed + step)
        batch = {name: values[chosen] for name, values in self.pictures.items()}
        told = torch.rand(len(chosen), 1, generator=generator, device=self.device) >= self.recipe.caption_dropout
        batch["ids"] = torch.where(told, batch["ids"], self.unsaid)
        batch["noise"] = torch.randn(batch["latents"].shape, generator=generator, device=self.device)
        return batch

    def loss(
        self, step: int, batch: dict[str, Tensor], predict: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """The loss, and what else `predict` gave for (noisy latents, times, states of the text)."""
        mask = batch["masks"].float() / 255
        generator = torch.Generator().manual_seed(self.recipe.seed + step)
        t = self.noising.sample_t(len(mask), generator, self.recipe.noise_bias)
        noised = self.noising.add(batch["latents"].float(), batch["noise"], t)
        with torch.autocast(self.device.type, torch.bfloat16):
            hidden = self.text(input_ids=batch["ids"]).last_hidden_state
            prediction, more = predict(noised.x_t, noised.t, hidden)
        limbs = limb_map(batch["joints"], mask.shape[-1])
        weight = 1 + (self.recipe.figure_weight - 1) * mask + self.recipe.limbs_weight * limbs
        return (weight * (prediction.float() - noised.target).square()).mean() / weight.mean(), more


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
    """Train `unet` with the denoising loss on (latents, caption) pairs.

    An auxiliary head reads the joints off features half way up, at every noise level, and is thrown away afterwards.
    From noise alone the words are all there is to read them from, so they matter early (compare the alignment of
    features in REPA, Yu et al. 2024; the world knows the joints, which is more than a pretrained encoder would).
    """
    pictures = cache_pictures(recipe, vae, tokenizer, folder / PICTURES, workers, report)
    denoising = Denoising(recipe, pictures, text, tokenizer, recipe.unet.batch_size)
    guided = _Guided(unet).to(text.device)
    # The backward pass of fused attention takes a third of a step on CPUs, and was not finite in bf16 on an H200.
    unet.set_attn_processor(AttnProcessor())
    if text.device.type == "cuda":
        guided.compile()

    def batches(step: int) -> Iterator[dict[str, Tensor]]:
        for number in range(step, recipe.unet.steps):
            yield denoising.batch(number)

    def loss(step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error, heat = denoising.loss(step, batch, guided)
        seen_joints = heat_loss(heat.float(), batch["joints"])
        return {"loss": error + recipe.joints_weight * seen_joints, "denoising": error, "joints": seen_joints}

    def show(step: int) -> None:
        if preview is not None:
            preview(unet, step)

    fit_module(guided, batches, loss, recipe.unet, folder, report, show)
    guided.release()
    unet.set_default_attn_processor()


def _visit(recipe: Recipe, step: int, size: int) -> Tensor:
    """Indices of the pictures of a step: rounds in which every picture comes once, shuffled anew each time."""
    count = recipe.distinct_pictures
    positions = torch.arange(step * size, (step + 1) * size)
    rounds = positions // count
    chosen = [
        _order(recipe.seed, epoch, count)[positions[rounds == epoch] % count] for epoch in rounds.unique().tolist()
    ]
    return torch.cat(chosen)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, STREAM, 2, epoch]).permutation(count))
