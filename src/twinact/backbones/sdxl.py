"""Stable Diffusion XL."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from jaxtyping import Float, Int64
from torch import Tensor

from twinact.backbones.base import Backbone, TextCond, TokenTable, hash_tokenizers
from twinact.backbones.latents import to_latents, to_pictures
from twinact.backbones.noising import DDPMNoising
from twinact.backbones.text import by_encoder, encode, pool_at_end, splice, token_embedding
from twinact.backbones.weights import reading
from twinact.errors import ConfigError


class StableDiffusionXL(Backbone):
    """Two CLIP text encoders side by side, the second one pooled too, and a UNet that is told the picture's size."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    guidance = 5.0

    def __init__(self, pipeline: StableDiffusionXLPipeline, model_id: str) -> None:
        """Takes over the pipeline's modules: they are frozen and put in eval mode.

        Raises:
            ConfigError: A text encoder is missing, as in the refiner, or the scheduler is not a DDPM-like one with
                epsilon or v prediction.
        """
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            raise ConfigError(f"model {model_id!r} lacks one of its two text encoders: use an SDXL base model")
        self._vae = pipeline.vae.requires_grad_(False).eval()
        # The first VAE of SDXL overflows in float16 and says so; its pipeline decodes in float32 then. A copy of its
        # own, because casting a module to and fro under autograd changes weights that backward still needs.
        overflows = self._vae.config.force_upcast and self._vae.dtype == torch.float16
        self._safe_vae = copy.deepcopy(self._vae).float() if overflows else self._vae
        self._autoencoders = [self._vae, self._safe_vae]
        self._text_encoders = [
            module.requires_grad_(False).eval() for module in (pipeline.text_encoder, pipeline.text_encoder_2)
        ]
        self._tokenizers = [pipeline.tokenizer, pipeline.tokenizer_2]
        for encoder, tokenizer in zip(self._text_encoders, self._tokenizers, strict=True):
            pool_at_end(encoder, tokenizer)
        self._scheduler = pipeline.scheduler
        self._zeros_for_empty_prompt = pipeline.config.force_zeros_for_empty_prompt
        self.denoiser = pipeline.unet.requires_grad_(False).eval()
        self.model_id = model_id
        self.device, self.dtype = self.denoiser.device, self.denoiser.dtype
        self.noising = DDPMNoising.from_scheduler(self._scheduler, self.device)
        self.tokenizer_hash = hash_tokenizers(self._tokenizers)
        side = pipeline.default_sample_size
        self.latent_shape = (self.denoiser.config.in_channels, side, side)
        self.image_size = side * pipeline.vae_scale_factor

    @classmethod
    def from_folder(cls, folder: Path, model_id: str, device: torch.device, dtype: torch.dtype) -> "StableDiffusionXL":
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            folder,
            **reading(folder, dtype),
            add_watermarker=False,
        )
        pipeline.unet.to(device)
        return cls(pipeline, model_id)

    def token_tables(self) -> list[TokenTable]:
        names = ("text_encoder", "text_encoder_2")
        return [
            TokenTable(name, tokenizer, token_embedding(encoder).weight)
            for name, tokenizer, encoder in zip(names, self._tokenizers, self._text_encoders, strict=True)
        ]

    def encode_image(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        return to_latents(self._safe_vae, images).to(self.dtype)

    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        return to_pictures(self._safe_vae, latents)

    def encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        own = by_encoder(vectors, len(self._text_encoders), self.model_id)
        outputs = [
            encode(
                encoder,
                splice(table, prompts, mapping, table.tokenizer.model_max_length),
                output_hidden_states=True,
            )
            for encoder, table, mapping in zip(self._text_encoders, self.token_tables(), own, strict=True)
        ]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)  # b l d1+d2
        return TextCond(hidden, outputs[1].text_embeds)

    def predict(
        self, x_t: Float[Tensor, "b c h w"], t: Int64[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        # Original size, corner of the crop, target size: a whole picture, as the stock pipeline asks for one.
        sizes = [self.image_size, self.image_size, 0, 0, self.image_size, self.image_size]
        time_ids = torch.tensor([sizes], dtype=cond.hidden.dtype, device=self.device).expand(len(x_t), -1)  # b 6
        return self.denoiser(
            x_t,
            t,
            encoder_hidden_states=cond.hidden,
            added_cond_kwargs={"text_embeds": cond.pooled, "time_ids": time_ids},
        ).sample

    def pipeline_arguments(self, cond: TextCond, negative_prompt: str, guidance: float) -> dict[str, Any]:
        arguments = super().pipeline_arguments(cond, negative_prompt, guidance)
        if not negative_prompt and self._zeros_for_empty_prompt:
            for name in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"):
                arguments[name] = torch.zeros_like(arguments[name])
        return arguments

    def pipeline(self) -> StableDiffusionXLPipeline:
        pipeline = StableDiffusionXLPipeline(
            vae=self._vae,
            text_encoder=self._text_encoders[0],
            text_encoder_2=self._text_encoders[1],
            tokenizer=self._tokenizers[0],
            tokenizer_2=self._tokenizers[1],
            unet=self.denoiser,
            # Schedulers keep state between steps: two pipelines at work must not share one.
            scheduler=type(self._scheduler).from_config(self._scheduler.config),
            force_zeros_for_empty_prompt=self._zeros_for_empty_prompt,
            add_watermarker=False,  # pictures must not depend on which other packages are installed
        )
        # Its own method does just this, and warns its caller, itself, that it is deprecated.
        pipeline.upcast_vae = lambda: self._vae.to(dtype=torch.float32)
        return pipeline
