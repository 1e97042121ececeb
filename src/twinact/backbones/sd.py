"""Stable Diffusion 1 and 2, and the embedded model, which is one of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Int64
from torch import Tensor

from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.cross_attention import readers
from twinact.backbones.features import up_block
from twinact.backbones.noising import DDPMNoising
from twinact.backbones.text import encode_weighed, splice


class StableDiffusion(Backbone):
    """One CLIP text encoder, a UNet, DDPM noise (epsilon or v), and a full or a tiny autoencoder."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    guidance = 7.5
    stock, denoiser_name, pooled_encoders = StableDiffusionPipeline, "unet", 0
    weighs_prompts = True

    def __init__(self, pipeline: StableDiffusionPipeline, model_id: str) -> None:
        """As `Backbone`.

        Raises:
            ConfigError: The scheduler is not a DDPM-like one with epsilon or v prediction.
        """
        super().__init__(pipeline, model_id)
        self.noising = DDPMNoising.from_scheduler(self._scheduler, self.device)
        side = self.denoiser.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        self.latent_shape = (self.denoiser.config.in_channels, height, width)
        self.image_size = height * pipeline.vae_scale_factor
        self.pose_block = up_block(self.denoiser, min(height, width))
        noisiest = int(self.noising.noisiest(1))
        self.cross_attention = readers(self.denoiser, self._tokenizers[0].model_max_length, noisiest)

    @classmethod
    def _loading_options(cls, folder: Path) -> dict[str, Any]:
        return {"safety_checker": None, "requires_safety_checker": False}

    def _encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        encoder, table, own = self._lone_encoder(vectors)
        spliced = splice(table, prompts, own, table.tokenizer.model_max_length)
        hidden, _ = encode_weighed(encoder, table, spliced, lambda outputs: outputs.last_hidden_state)
        return TextCond(hidden)  # b l d

    def _denoise(
        self, x_t: Float[Tensor, "b c h w"], t: Int64[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        return self.denoiser(x_t, t, encoder_hidden_states=cond.hidden).sample

    def pose_map(self, output: Any) -> Float[Tensor, "b c h w"]:
        return output

    def _pipeline_options(self) -> dict[str, Any]:
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
