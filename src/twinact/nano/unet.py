"""The denoiser of nano: a UNet with cross-attention on the text tower, trained on the codes of drawn pictures."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from twinact.backbones.memory import bf16_if_native
from twinact.backbones.noising import DDPMNoising
from twinact.nano.fit import fit_module
from twinact.nano.heatmaps import heat_loss, limb_map
from twinact.nano.pictures import Pictures
from twinact.nano.recipe import Recipe
from twinact.nano.text import mixed, token_ids
from twinact.world.skeleton import JOINT_NAMES


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    """An untrained UNet; the two lower resolutions attend to the text."""
    torch.manual_seed(recipe.seed)
    return UNet2DConditionModel(
        sample_size=recipe.image_size // 8,
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
    """The denoising loss on drawn pictures, weighted towards the figure and most towards the bones of its limbs.

    Args:
        recipe: The weights.
        pictures: What is learned from.
        text: The text tower; its layers may learn along.
        tokenizer: Of the tower.
        batch_size: Pictures a step.
    """

    def __init__(
        self, recipe: Recipe, pictures: Pictures, text: CLIPTextModel, tokenizer: CLIPTokenizer, batch_size: int
    ) -> None:
        self.recipe, self.pictures, self.text, self.batch_size = recipe, pictures, text, batch_size
        self.device = text.device
        self.unsaid = token_ids(tokenizer, [""], recipe.max_tokens).to(self.device)
        self.noising = DDPMNoising(build_scheduler().alphas_cumprod.to(self.device), "v_prediction")

    def batch(self, step: int) -> dict[str, Tensor]:
        """What a step sees, by its number alone: some captions are empty, for classifier-free guidance."""
        batch = self.pictures.batch(step, self.batch_size)
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed + step)
        told = torch.rand(self.batch_size, 1, generator=generator, device=self.device) >= self.recipe.caption_dropout
        batch |= {name: torch.where(told, batch[name], self.unsaid) for name in ("ids", "second")}
        batch["noise"] = torch.randn(batch["latents"].shape, generator=generator, device=self.device)
        return batch

    def read(self, batch: Mapping[str, Tensor]) -> Tensor:
        """States (b, l, d) of the text."""
        with mixed(self.text, batch["second"], batch["share"]):
            return self.text(input_ids=batch["ids"]).last_hidden_state

    def loss(
        self, step: int, batch: dict[str, Tensor], predict: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """The loss, and what else `predict` gave for (noisy latents, times, states of the text)."""
        generator = torch.Generator().manual_seed(self.recipe.seed + step)
        t = self.noising.sample_t(self.batch_size, generator, self.recipe.noise_bias)
        noised = self.noising.add(batch["latents"], batch["noise"], t)
        with bf16_if_native(self.device):
            prediction, more = predict(noised.x_t, noised.t, self.read(batch).float())
        limbs = limb_map(batch["joints"], batch["masks"].shape[-1])
        weight = 1 + (self.recipe.figure_weight - 1) * batch["masks"] + self.recipe.limbs_weight * limbs
        return (weight * (prediction.float() - noised.target).square()).mean() / weight.mean(), more


def learn_along(text: CLIPTextModel) -> None:
    """Let a text tower learn beside a denoiser, but for its embeddings, which span the action space."""
    for name, parameter in text.named_parameters():
        parameter.requires_grad_("embedding" not in name)


def train_unet(
    recipe: Recipe,
    denoising: Denoising,
    unet: UNet2DConditionModel,
    folder: Path,
    report: Callable[[str], None],
    preview: Callable[[int], None] | None = None,
) -> None:
    """Train `unet` and the layers of the text tower with the denoising loss.

    An auxiliary head reads the joints off features half way up, at every noise level, and is thrown away afterwards.
    From noise alone the words are all there is to read them from, so they matter early (compare the alignment of
    features in REPA, Yu et al. 2024; the world knows the joints, which is more than a pretrained encoder would).
    """
    text = denoising.text
    guided = _Guided(unet).to(denoising.device)
    learn_along(text)
    # The backward pass of fused attention takes a third of a step on CPUs, and was not finite in bf16 on an H200.
    unet.set_attn_processor(AttnProcessor())
    parts = nn.ModuleDict({"guided": guided, "text": text})
    predict = _as_one_kernel(guided, denoising, report) if denoising.device.type == "cuda" else guided

    def batches(step: int) -> Iterator[dict[str, Tensor]]:
        for number in range(step, recipe.unet.steps):
            yield denoising.batch(number)

    def loss(step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error, heat = denoising.loss(step, batch, predict)
        seen_joints = heat_loss(heat.float(), batch["joints"])
        return {"loss": error + recipe.joints_weight * seen_joints, "denoising": error, "joints": seen_joints}

    fit_module(parts, batches, loss, recipe.unet, folder, report, preview)
    guided.release()
    text.requires_grad_(False)
    unet.set_default_attn_processor()


def _as_one_kernel(guided: _Guided, denoising: Denoising, report: Callable[[str], None]) -> Callable[..., Any]:
    """`guided` as a CUDA graph: its kernels are so small that starting each takes longer than running it."""
    batch = denoising.batch(0)
    hidden = denoising.read(batch).detach().float().requires_grad_()
    times = torch.zeros(len(hidden), dtype=torch.long, device=denoising.device)
    guided.train()
    with bf16_if_native(denoising.device):
        graphed = torch.cuda.make_graphed_callables(_Plain(guided), (batch["latents"], times, hidden))
    report("unet: runs as one graph of kernels")
    return graphed


class _Plain(nn.Module):
    """A module that holds another, for `make_graphed_callables`, which replaces the forward of what it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_t: Tensor, t: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x_t, t, hidden)
