"""Stable Diffusion 3 and 3.5."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones.base import Backbone, TextCond, TokenTable, hash_tokenizers
from twinact.backbones.latents import to_latents, to_pictures
from twinact.backbones.noising import FlowNoising
from twinact.backbones.text import by_encoder, encode, pool_at_end, splice, token_embedding
from twinact.backbones.weights import reading
from twinact.errors import ConfigError

# Positions of T5, with or without a T5 to fill them: the default of the stock pipeline.
T5_LENGTH = 256


class StableDiffusion3(Backbone):
    """Two pooled CLIP text encoders and mostly a T5, a transformer over text and picture, flow matching."""

    lora_targets = (
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    )  # fmt: skip
    guidance = 7.0

    def __init__(self, pipeline: StableDiffusion3Pipeline, model_id: str) -> None:
        """Takes over the pipeline's modules: they are frozen and put in eval mode.

        Raises:
            ConfigError: A CLIP text encoder is missing, or the scheduler is not a flow-matching one.
        """
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            raise ConfigError(f"model {model_id!r} lacks one of its two CLIP text encoders: only T5 may be left out")
        self._vae = pipeline.vae.requires_grad_(False).eval()
        self._autoencoders = [self._vae]
        self._text_encoders = [pipeline.text_encoder, pipeline.text_encoder_2]
        self._tokenizers = [pipeline.tokenizer, pipeline.tokenizer_2]
        for encoder, tokenizer in zip(self._text_encoders, self._tokenizers, strict=True):
            pool_at_end(encoder, tokenizer)
        if pipeline.text_encoder_3 is not None:
            self._text_encoders.append(pipeline.text_encoder_3)
            self._tokenizers.append(pipeline.tokenizer_3)
        for encoder in self._text_encoders:
            encoder.requires_grad_(False).eval()
        self._scheduler = pipeline.scheduler
        self.denoiser = pipeline.transformer.requires_grad_(False).eval()
        self.model_id = model_id
        self.device, self.dtype = self.denoiser.device, self.denoiser.dtype
        self.tokenizer_hash = hash_tokenizers(self._tokenizers)
        side = pipeline.default_sample_size
        self.latent_shape = (self.denoiser.config.in_channels, side, side)
        self.image_size = side * pipeline.vae_scale_factor
        tokens = (side // self.denoiser.config.patch_size) ** 2
        self.noising = FlowNoising.from_scheduler(self._scheduler, tokens, self.device)

    @classmethod
    def from_folder(cls, folder: Path, model_id: str, device: torch.device, dtype: torch.dtype) -> "StableDiffusion3":
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        # Whoever leaves T5 out must say so to the stock loader, although the folder says it too.
        left_out = {part: None for part in ("text_encoder_3", "tokenizer_3") if not any(index.get(part, ()))}
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            folder,
            **reading(folder, dtype),
            **left_out,
        )
        pipeline.transformer.to(device)
        return cls(pipeline, model_id)

    def token_tables(self) -> list[TokenTable]:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        return [
            TokenTable(name, tokenizer, token_embedding(encoder).weight)
            for name, tokenizer, encoder in zip(names, self._tokenizers, self._text_encoders, strict=False)
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
        length = self._tokenizers[0].model_max_length  # of both CLIPs, as in the stock pipeline
        spliced_for_clip = [splice(tables[i], prompts, own[i], length, needed=len(tables) < 3) for i in range(2)]
        clip = [
            encode(self._text_encoders[i], spliced, output_hidden_states=True)
            for i, spliced in enumerate(spliced_for_clip)
        ]
        hidden = torch.cat([output.hidden_states[-2] for output in clip], dim=-1)  # b l d1+d2
        pooled = torch.cat([output.text_embeds for output in clip], dim=-1)  # b p1+p2
        width = self.denoiser.config.joint_attention_dim
        if len(tables) == 3:
            spliced = splice(tables[2], prompts, own[2], T5_LENGTH)
            t5 = encode(self._text_encoders[2], spliced).last_hidden_state.to(self.dtype)  # b T5_LENGTH d
        else:
            t5 = hidden.new_zeros(len(prompts), T5_LENGTH, width)
        padded = F.pad(hidden, (0, width - hidden.shape[-1]))
        return TextCond(torch.cat([padded, t5], dim=1), pooled)

    def predict(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        return self.denoiser(x_t, timestep=t, encoder_hidden_states=cond.hidden, pooled_projections=cond.pooled).sample

    def pipeline(self) -> StableDiffusion3Pipeline:
        with_t5 = len(self._text_encoders) == 3
        return StableDiffusion3Pipeline(
            vae=self._vae,
            text_encoder=self._text_encoders[0],
            text_encoder_2=self._text_encoders[1],
            text_encoder_3=self._text_encoders[2] if with_t5 else None,
            tokenizer=self._tokenizers[0],
            tokenizer_2=self._tokenizers[1],
            tokenizer_3=self._tokenizers[2] if with_t5 else None,
            transformer=self.denoiser,
            # Schedulers keep state between steps: two pipelines at work must not share one.
            scheduler=type(self._scheduler).from_config(self._scheduler.config),
        )
