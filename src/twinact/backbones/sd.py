"""Stable Diffusion 1 and 2, and the embedded model, which is one of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Int64
from torch import Tensor

from twinact.backbones.base import Backbone, TextCond, TokenTable, hash_tokenizers
from twinact.backbones.latents import to_latents, to_pictures
from twinact.backbones.noising import DDPMNoising
from twinact.backbones.text import by_encoder, encode, splice, token_embedding
from twinact.backbones.weights import reading


class StableDiffusion(Backbone):
    """One CLIP text encoder, a UNet, DDPM noise (epsilon or v), and a full or a tiny autoencoder."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    guidance = 7.5

    def __init__(self, pipeline: StableDiffusionPipeline, model_id: str) -> None:
        """Takes over the pipeline's modules: they are frozen and put in eval mode.

        Raises:
            ConfigError: The scheduler is not a DDPM-like one with epsilon or v prediction.
        """
        self._vae = pipeline.vae.requires_grad_(False).eval()
        self._text_encoder = pipeline.text_encoder.requires_grad_(False).eval()
        self._text_encoders, self._autoencoders = [self._text_encoder], [self._vae]
        self._tokenizer = pipeline.tokenizer
        self._scheduler = pipeline.scheduler
        self.denoiser = pipeline.unet.requires_grad_(False).eval()
        self.model_id = model_id
        self.device, self.dtype = self.denoiser.device, self.denoiser.dtype
        self.noising = DDPMNoising.from_scheduler(self._scheduler, self.device)
        self.tokenizer_hash = hash_tokenizers([self._tokenizer])
        side = self.denoiser.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        self.latent_shape = (self.denoiser.config.in_channels, height, width)
        self.image_size = height * pipeline.vae_scale_factor

    @classmethod
    def from_folder(cls, folder: Path, model_id: str, device: torch.device, dtype: torch.dtype) -> "StableDiffusion":
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            **reading(folder, dtype),
            safety_checker=None,
            requires_safety_checker=False,
        )
        pipeline.unet.to(device)
        return cls(pipeline, model_id)

    def token_tables(self) -> list[TokenTable]:
        return [TokenTable("text_encoder", self._tokenizer, token_embedding(self._text_encoder).weight)]

    def encode_image(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        return to_latents(self._vae, images)

    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        return to_pictures(self._vae, latents)

    def encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        (own,) = by_encoder(vectors, 1, self.model_id)
        spliced = splice(self.token_tables()[0], prompts, own, self._tokenizer.model_max_length)
        return TextCond(encode(self._text_encoder, spliced).last_hidden_state)  # b l d

    def predict(
        self, x_t: Float[Tensor, "b c h w"], t: Int64[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        return self.denoiser(x_t, t, encoder_hidden_states=cond.hidden).sample

    def pipeline(self) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            vae=self._vae,
            text_encoder=self._text_encoder,
            tokenizer=self._tokenizer,
            unet=self.denoiser,
            # Schedulers keep state between steps: two pipelines at work must not share one.
            scheduler=type(self._scheduler).from_config(self._scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
