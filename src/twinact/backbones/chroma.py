"""Chroma1."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ChromaPipeline
from diffusers.models.transformers.transformer_chroma import ChromaSingleTransformerBlock
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.flux import FluxTransformer, pack, patch_places, unpack
from twinact.backbones.text import encode_weighed, splice

T5_LENGTH = 512


class Chroma(FluxTransformer):
    """A T5, a transformer over 2 x 2 patches of latents, flow matching: a FLUX.1 without CLIP and with real guidance.

    The transformer sees the tokens of a prompt and one position of padding.
    """

    guidance = 5.0
    stock, pooled_encoders = ChromaPipeline, 0

    @classmethod
    def from_folder(
        cls, folder: Path, model_id: str, device: torch.device, dtype: torch.dtype, quantised: str | None = None
    ) -> "Backbone":
        with warnings.catch_warnings():
            # The transformer of diffusers 0.42 warns of an import of its own.
            warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)
            return super().from_folder(folder, model_id, device, dtype, quantised)

    def _encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        encoder, table, own = self._lone_encoder(vectors)
        spliced = splice(table, prompts, own, T5_LENGTH)
        read, _ = encode_weighed(encoder, table, spliced, lambda outputs: outputs.last_hidden_state, masked=True)
        hidden = read.to(self.dtype)
        positions = torch.arange(T5_LENGTH, device=spliced.mask.device)
        mask = positions <= spliced.mask.sum(dim=1, keepdim=True)  # b l
        return TextCond(hidden, mask=mask.to(hidden))

    def _denoise(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        assert cond.mask is not None
        h, w = x_t.shape[2:]
        mask = F.pad(cond.mask.to(x_t.dtype), (0, h * w // 4), value=1.0)  # b l + n: all of the picture is seen
        if self.denoiser.gradient_checkpointing:
            self.denoiser._gradient_checkpointing_func = _recomputing(mask)
        predicted = self.denoiser(
            pack(x_t),
            timestep=t.to(x_t.dtype) / 1000,  # the transformer multiplies it again
            encoder_hidden_states=cond.hidden,
            txt_ids=torch.zeros(cond.hidden.shape[1], 3, device=self.device, dtype=cond.hidden.dtype),
            img_ids=patch_places(h // 2, w // 2).to(self.device, cond.hidden.dtype),
            attention_mask=mask,
        ).sample
        return unpack(predicted, h, w)

    def pipeline_arguments(self, cond: TextCond, negative_prompt: str, guidance: float) -> dict[str, Any]:
        away = self.encode_text([negative_prompt] * len(cond.hidden))
        return {
            "prompt_embeds": cond.hidden,
            "prompt_attention_mask": cond.mask,
            "negative_prompt_embeds": away.hidden,
            "negative_prompt_attention_mask": away.mask,
            "guidance_scale": guidance,
            "height": self.image_size,
            "width": self.image_size,
        }


def _recomputing(mask: Float[Tensor, "b l"]) -> Callable[..., Any]:
    """Activation checkpointing that masks in every block; that of diffusers 0.42 forgets it in single blocks."""

    def run(block: nn.Module, *inputs: Any) -> Any:
        if isinstance(block, ChromaSingleTransformerBlock) and len(inputs) == 3:  # picture, modulation, places
            inputs = (*inputs, mask)
        return checkpoint(block, *inputs, use_reentrant=False)

    return run
