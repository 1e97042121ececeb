"""Stable Diffusion 3 and 3.5."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones.backbone import JOINT_ATTENTION, Backbone, TextCond
from twinact.backbones.features import map_of_last, middle_block
from twinact.backbones.noising import FlowNoising
from twinact.backbones.text import by_encoder, encode_weighed, splice
from twinact.backbones.weights import read_config
from twinact.errors import ConfigError

# Positions of T5, with or without a T5 to fill them: the default of the stock pipeline.
T5_LENGTH = 256


class StableDiffusion3(Backbone):
    """Two pooled CLIP text encoders and mostly a T5, a transformer over text and picture, flow matching."""

    lora_targets = JOINT_ATTENTION
    guidance = 7.0
    stock, denoiser_name, pooled_encoders = StableDiffusion3Pipeline, "transformer", 2
    weighs_prompts = True

    def __init__(self, pipeline: StableDiffusion3Pipeline, model_id: str) -> None:
        """As `Backbone`.

        Raises:
            ConfigError: A CLIP text encoder is missing, or the scheduler is not a flow-matching one.
        """
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            raise ConfigError(f"model {model_id!r} lacks one of its two CLIP text encoders: only T5 may be left out")
        super().__init__(pipeline, model_id)
        side = pipeline.default_sample_size
        most = self.denoiser.config.pos_embed_max_size * self.denoiser.config.patch_size
        if side > most:
            raise ConfigError(
                f"model {model_id!r} draws {side} latents a side, and its transformer knows {most} "
                "(pos_embed_max_size): its config is damaged; download or copy it again"
            )
        self.longest_side = most * pipeline.vae_scale_factor
        self.latent_shape = (self.denoiser.config.in_channels, side, side)
        self.image_size = side * pipeline.vae_scale_factor
        self._rows = side // self.denoiser.config.patch_size
        self.noising = FlowNoising.from_scheduler(self._scheduler, self._rows**2, self.device)
        self.pose_block = middle_block(self.denoiser, "transformer_blocks")

    @classmethod
    def _loading_options(cls, folder: Path) -> dict[str, Any]:
        index = read_config(folder / "model_index.json")
        # Whoever leaves T5 out must say so to the stock loader, although the folder says it too.
        return {part: None for part in ("text_encoder_3", "tokenizer_3") if not any(index.get(part, ()))}

    def _encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        tables = self.token_tables()
        encoders = list(self._text_encoders.values())
        own = by_encoder(vectors, len(tables), self.model_id)
        length = self._tokenizers[0].model_max_length  # of both CLIPs, as in the stock pipeline
        spliced_for_clip = [splice(tables[i], prompts, own[i], length, needed=len(tables) < 3) for i in range(2)]
        clip = [
            encode_weighed(
                encoders[i], tables[i], spliced, lambda outputs: outputs.hidden_states[-2], output_hidden_states=True
            )
            for i, spliced in enumerate(spliced_for_clip)
        ]
        hidden = torch.cat([hidden for hidden, _ in clip], dim=-1)  # b l d1+d2
        pooled = torch.cat([outputs.text_embeds for _, outputs in clip], dim=-1)  # b p1+p2
        width = self.denoiser.config.joint_attention_dim
        if len(tables) == 3:
            spliced = splice(tables[2], prompts, own[2], T5_LENGTH)
            read, _ = encode_weighed(encoders[2], tables[2], spliced, lambda outputs: outputs.last_hidden_state)
            t5 = read.to(self.dtype)  # b T5_LENGTH d
        else:
            t5 = hidden.new_zeros(len(prompts), T5_LENGTH, width)
        padded = F.pad(hidden, (0, width - hidden.shape[-1]))
        return TextCond(torch.cat([padded, t5], dim=1), pooled)

    def _denoise(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        return self.denoiser(x_t, timestep=t, encoder_hidden_states=cond.hidden, pooled_projections=cond.pooled).sample

    def pose_map(self, output: Any) -> Float[Tensor, "b c h w"]:
        return map_of_last(output, self._rows, self._rows)
