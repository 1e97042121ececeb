"""FLUX.1, dev and schnell."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from jaxtyping import Float
from torch import Tensor

from twinact.backbones.base import Backbone, TextCond, TokenTable, hash_tokenizers
from twinact.backbones.latents import to_latents, to_pictures
from twinact.backbones.noising import FlowNoising
from twinact.backbones.text import by_encoder, encode, pool_at_end, splice, token_embedding
from twinact.backbones.weights import reading
from twinact.errors import ConfigError

# Positions of T5 in dev, whose guidance is distilled into an input, and in schnell, which has none.
T5_LENGTH, T5_LENGTH_SCHNELL = 512, 256
# The denoising target is the velocity of the data, which is what dev predicts without guidance. Learning at the
# guidance of drawing would teach the vectors to undo it.
LEARNING_GUIDANCE = 1.0


class Flux(Backbone):
    """A CLIP that is only pooled, a T5, a transformer over 2 x 2 patches of latents, flow matching."""

    lora_targets = (
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    )  # fmt: skip
    guidance = 3.5

    def __init__(self, pipeline: FluxPipeline, model_id: str) -> None:
        """Takes over the pipeline's modules: they are frozen and put in eval mode.

        Raises:
            ConfigError: The scheduler is not a flow-matching one.
        """
        self._vae = pipeline.vae.requires_grad_(False).eval()
        self._clip = pipeline.text_encoder.requires_grad_(False).eval()
        self._t5 = pipeline.text_encoder_2.requires_grad_(False).eval()
        self._text_encoders, self._autoencoders = [self._clip, self._t5], [self._vae]
        self._tokenizers = [pipeline.tokenizer, pipeline.tokenizer_2]
        pool_at_end(self._clip, pipeline.tokenizer)
        self._scheduler = pipeline.scheduler
        self.denoiser = pipeline.transformer.requires_grad_(False).eval()
        self.model_id = model_id
        self.device, self.dtype = self.denoiser.device, self.denoiser.dtype
        self.tokenizer_hash = hash_tokenizers(self._tokenizers)
        self._guided = bool(self.denoiser.config.guidance_embeds)
        self._t5_length = T5_LENGTH if self._guided else T5_LENGTH_SCHNELL
        # The transformer takes any size and names none; tiny autoencoders name none either.
        default = pipeline.default_sample_size * pipeline.vae_scale_factor
        self.image_size = self._vae.config.get("sample_size", default)
        side = self.image_size // pipeline.vae_scale_factor
        self.latent_shape = (self.denoiser.config.in_channels // 4, side, side)
        self.noising = FlowNoising.from_scheduler(self._scheduler, (side // 2) ** 2, self.device)

    @classmethod
    def from_folder(cls, folder: Path, model_id: str, device: torch.device, dtype: torch.dtype) -> "Flux":
        pipeline = FluxPipeline.from_pretrained(
            folder,
            **reading(folder, dtype),
        )
        pipeline.transformer.to(device)
        return cls(pipeline, model_id)

    def token_tables(self) -> list[TokenTable]:
        return [
            TokenTable("text_encoder", self._tokenizers[0], token_embedding(self._clip).weight),
            TokenTable("text_encoder_2", self._tokenizers[1], token_embedding(self._t5).weight),
        ]

    def encode_image(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        return to_latents(self._vae, images)

    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        return to_pictures(self._vae, latents)

    def encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        tables = self.token_tables()
        own = by_encoder(vectors, len(tables), self.model_id)
        length = self._tokenizers[0].model_max_length
        clip = encode(self._clip, splice(tables[0], prompts, own[0], length, needed=False))  # T5 reads on
        t5 = encode(self._t5, splice(tables[1], prompts, own[1], self._t5_length))
        return TextCond(t5.last_hidden_state.to(self.dtype), clip.pooler_output)

    def predict(
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
            img_ids=_patch_places(h // 2, w // 2).to(self.device, cond.hidden.dtype),
        ).sample
        return unpack(predicted, h, w)

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

    def pipeline(self) -> FluxPipeline:
        return FluxPipeline(
            vae=self._vae,
            text_encoder=self._clip,
            text_encoder_2=self._t5,
            tokenizer=self._tokenizers[0],
            tokenizer_2=self._tokenizers[1],
            transformer=self.denoiser,
            # Schedulers keep state between steps: two pipelines at work must not share one.
            scheduler=type(self._scheduler).from_config(self._scheduler.config),
        )


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


def _patch_places(rows: int, columns: int) -> Float[Tensor, "n 3"]:
    """(0, row, column) of every patch, as the rotary positions take them; text stands at 0."""
    grid = torch.meshgrid(torch.zeros(1), torch.arange(float(rows)), torch.arange(float(columns)), indexing="ij")
    return torch.stack(grid, dim=-1).reshape(-1, 3)
