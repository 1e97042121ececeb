"""Stable Diffusion XL."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from jaxtyping import Float, Int64
from torch import Tensor

from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.cross_attention import readers
from twinact.backbones.features import up_block
from twinact.backbones.latents import to_latents, to_pictures
from twinact.backbones.noising import DDPMNoising
from twinact.backbones.text import by_encoder, encode_weighed, splice
from twinact.errors import ConfigError


class StableDiffusionXL(Backbone):
    """Two CLIP text encoders side by side, the second one pooled too, and a UNet that takes the size of the picture."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    guidance = 5.0
    stock, denoiser_name, pooled_encoders = StableDiffusionXLPipeline, "unet", 2
    weighs_prompts = True

    def __init__(self, pipeline: StableDiffusionXLPipeline, model_id: str) -> None:
        """As `Backbone`.

        Raises:
            ConfigError: A text encoder is missing, as in the refiner, or the scheduler is not a DDPM-like one with
                epsilon or v prediction.
        """
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            raise ConfigError(f"model {model_id!r} lacks one of its two text encoders: use an SDXL base model")
        super().__init__(pipeline, model_id)
        # The first VAE of SDXL overflows in float16 and says so; its pipeline decodes in float32 then. A copy of its
        # own, because casting a module to and fro under autograd changes weights that backward still needs.
        overflows = self._vae.config.force_upcast and self._vae.dtype == torch.float16
        self._safe_vae = copy.deepcopy(self._vae).float() if overflows else self._vae
        self._autoencoders.append(self._safe_vae)
        self._zeros_for_empty_prompt = pipeline.config.force_zeros_for_empty_prompt
        self.noising = DDPMNoising.from_scheduler(self._scheduler, self.device)
        side = pipeline.default_sample_size
        self.latent_shape = (self.denoiser.config.in_channels, side, side)
        self.image_size = side * pipeline.vae_scale_factor
        self.pose_block = up_block(self.denoiser, side)
        noisiest = int(self.noising.noisiest(1))
        self.cross_attention = readers(self.denoiser, self._tokenizers[0].model_max_length, noisiest)

    @classmethod
    def _loading_options(cls, folder: Path) -> dict[str, Any]:
        return {"add_watermarker": False}

    def encode_image(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        return to_latents(self._safe_vae, images).to(self.dtype)

    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        return to_pictures(self._safe_vae, latents)

    def _encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        own = by_encoder(vectors, len(self._text_encoders), self.model_id)
        told = [
            encode_weighed(
                encoder,
                table,
                splice(table, prompts, mapping, table.tokenizer.model_max_length),
                lambda outputs: outputs.hidden_states[-2],
                output_hidden_states=True,
            )
            for encoder, table, mapping in zip(self._text_encoders.values(), self.token_tables(), own, strict=True)
        ]
        hidden = torch.cat([hidden for hidden, _ in told], dim=-1)  # b l d1+d2
        return TextCond(hidden, told[1][1].text_embeds)

    def _denoise(
        self, x_t: Float[Tensor, "b c h w"], t: Int64[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        # Original size, corner of the crop, target size: a whole picture, as the stock pipeline asks for one.
        height, width = (side * self.image_size // self.latent_shape[1] for side in x_t.shape[2:])
        sizes = [height, width, 0, 0, height, width]
        time_ids = torch.tensor([sizes], dtype=cond.hidden.dtype, device=self.device).expand(len(x_t), -1)  # b 6
        return self.denoiser(
            x_t,
            t,
            encoder_hidden_states=cond.hidden,
            added_cond_kwargs={"text_embeds": cond.pooled, "time_ids": time_ids},
        ).sample

    def pose_map(self, output: Any) -> Float[Tensor, "b c h w"]:
        return output

    def pipeline_arguments(self, cond: TextCond, negative_prompt: str, guidance: float) -> dict[str, Any]:
        arguments = super().pipeline_arguments(cond, negative_prompt, guidance)
        if not negative_prompt and self._zeros_for_empty_prompt:
            for name in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"):
                arguments[name] = torch.zeros_like(arguments[name])
        return arguments

    def pipeline(self) -> StableDiffusionXLPipeline:
        pipeline = super().pipeline()
        # Its own method does just this, and warns its caller, itself, that it is deprecated.
        pipeline.upcast_vae = lambda: self._vae.to(dtype=torch.float32)
        return pipeline

    def _pipeline_options(self) -> dict[str, Any]:
        # Pictures must not depend on which other packages are installed, as a watermark would make them.
        return {"force_zeros_for_empty_prompt": self._zeros_for_empty_prompt, "add_watermarker": False}
