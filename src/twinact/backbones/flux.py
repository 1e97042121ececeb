"""FLUX.1, dev and schnell."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FluxPipeline
from jaxtyping import Float
from torch import Tensor

from twinact.backbones.backbone import JOINT_ATTENTION, Backbone, TextCond
from twinact.backbones.features import map_of_last, middle_block
from twinact.backbones.noising import FlowNoising
from twinact.backbones.text import by_encoder, encode, encode_weighed, splice
from twinact.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Positions of T5 in dev, whose guidance is distilled into an input, and in schnell, which has none.
T5_LENGTH, T5_LENGTH_SCHNELL = 512, 256
# The denoising target is the velocity of the data, which is what dev predicts without guidance. Learning at the
# guidance of drawing would teach the vectors to undo it.
LEARNING_GUIDANCE = 1.0


class FluxTransformer(Backbone):
    """What FLUX.1 shares with the models made of it: a transformer over 2 x 2 patches of latents, flow matching."""

    lora_targets = JOINT_ATTENTION
    denoiser_name = "transformer"
    weighs_prompts = True

    def __init__(self, pipeline: "DiffusionPipeline", model_id: str) -> None:
        """As `Backbone`.

        Raises:
            ConfigError: The scheduler is not a flow-matching one.
        """
        super().__init__(pipeline, model_id)
        # The transformer takes any size and names none; tiny autoencoders name none either.
        default = pipeline.default_sample_size * pipeline.vae_scale_factor
        self.image_size = self._vae.config.get("sample_size", default)
        side = self.image_size // pipeline.vae_scale_factor
        self.latent_shape = (self.denoiser.config.in_channels // 4, side, side)
        self.noising = FlowNoising.from_scheduler(self._scheduler, (side // 2) ** 2, self.device)
        self.pose_block = middle_block(self.denoiser, "transformer_blocks", "single_transformer_blocks")

    def pose_map(self, output: Any) -> Float[Tensor, "b c h w"]:
        _, h, w = self.latent_shape
        return map_of_last(output, h // 2, w // 2)


class Flux(FluxTransformer):
    """A CLIP that is only pooled, a T5, and the transformer of `FluxTransformer`."""

    guidance = 3.5
    stock, pooled_encoders = FluxPipeline, 1

    def __init__(self, pipeline: FluxPipeline, model_id: str) -> None:
        """As `FluxTransformer`."""
        super().__init__(pipeline, model_id)
        self._guided = bool(self.denoiser.config.guidance_embeds)
        if not self._guided:
            self.steps = 4
        self._t5_length = T5_LENGTH if self._guided else T5_LENGTH_SCHNELL

    def _encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        tables = self.token_tables()
        own = by_encoder(vectors, len(tables), self.model_id)
        length = self._tokenizers[0].model_max_length
        for_clip = splice(tables[0], prompts, own[0], length, needed=False)  # T5 reads on
        clip = encode(self._text_encoders["text_encoder"], for_clip)
        for_t5, t5 = splice(tables[1], prompts, own[1], self._t5_length), self._text_encoders["text_encoder_2"]
        hidden, _ = encode_weighed(t5, tables[1], for_t5, lambda outputs: outputs.last_hidden_state)
        return TextCond(hidden.to(self.dtype), clip.pooler_output)

    def _denoise(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        b, _, h, w = x_t.shape
        guidance = torch.full((b,), LEARNING_GUIDANCE, device=self.device) if self._guided else None
        predicted = self.denoiser(
            pack(x_t),
            timestep=t.to(x_t.dtype) / 1000,  # the transformer multiplies it again
            guidance=guidance,
            pooled_projections=cond.pooled,
            encoder_hidden_states=cond.hidden,
            txt_ids=torch.zeros(cond.hidden.shape[1], 3, device=self.device, dtype=cond.hidden.dtype),
            img_ids=patch_places(h // 2, w // 2).to(self.device, cond.hidden.dtype),
        ).sample
        return unpack(predicted, h, w)

    def passes_a_step(self, guidance: float) -> int:
        return 1  # guidance is an input, or there is none

    def pipeline_arguments(self, cond: TextCond, negative_prompt: str, guidance: float) -> dict[str, Any]:
        if negative_prompt:
            raise ConfigError(
                f"negative prompt {negative_prompt!r} cannot be used: guidance is distilled into {self.model_id}, "
                "which leads away from nothing; leave it out"
            )
        return {
            "prompt_embeds": cond.hidden,
            "pooled_prompt_embeds": cond.pooled,
            "guidance_scale": guidance,
            "height": self.image_size,
            "width": self.image_size,
        }


def pack(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n p"]:
    """Latents as one token per 2 x 2 patch, row by row: n = h w / 4, p = 4 c, channels before places in a patch.

    h and w must be even.
    """
    b, c, h, w = latents.shape
    patches = latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)  # b h/2 w/2 c 2 2
    return patches.reshape(b, h * w // 4, 4 * c)


def unpack(tokens: Float[Tensor, "b n p"], h: int, w: int) -> Float[Tensor, "b c h w"]:
    """Inverse of `pack`."""
    b, _, p = tokens.shape
    patches = tokens.reshape(b, h // 2, w // 2, p // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)  # b c h/2 2 w/2 2
    return patches.reshape(b, p // 4, h, w)


def patch_places(rows: int, columns: int) -> Float[Tensor, "n 3"]:
    """(0, row, column) of every patch, as the rotary positions take them; text stands at 0."""
    grid = torch.meshgrid(torch.zeros(1), torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
    return torch.stack(grid, dim=-1).reshape(-1, 3)
