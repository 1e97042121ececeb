"""Z-Image, base and Turbo."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ZImagePipeline
from jaxtyping import Float
from torch import Tensor

from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.features import map_of_tokens, middle_block
from twinact.backbones.noising import FlowNoising
from twinact.backbones.qwen import chat_template, language_model, read_prompts

# The output of this layer of the text encoder is what the transformer was trained with.
LAYER = -2


class ZImage(Backbone):
    """A Qwen3 of which the last layer but one is read, a transformer over text and 2 x 2 patches, flow matching.

    Padding is not part of the text: prompts have as many positions as they have tokens.
    """

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    guidance = 5.0
    stock, denoiser_name, pooled_encoders = ZImagePipeline, "transformer", 0

    def __init__(self, pipeline: ZImagePipeline, model_id: str) -> None:
        """As `Backbone`.

        Raises:
            ConfigError: The scheduler is not a flow-matching one.
            CheckpointError: The tokenizer has no chat template.
        """
        super().__init__(pipeline, model_id)
        if "turbo" in model_id.lower():  # nothing but its name tells it from the base
            self.guidance, self.steps = 0.0, 8
        self._text_encoders = {name: language_model(one) for name, one in self._text_encoders.items()}
        self._template = chat_template(self._tokenizers[0], model_id, thinking=True)
        # The transformer takes any size and names none; neither does the stock pipeline but for its usual one.
        self.image_size = self._vae.config.sample_size
        side = self.image_size // pipeline.vae_scale_factor
        self.latent_shape = (self.denoiser.config.in_channels, side, side)
        self.noising = FlowNoising.from_scheduler(self._scheduler, (side // 2) ** 2, self.device)
        self.pose_block = middle_block(self.denoiser, "layers")

    def _encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        encoder, table, own = self._lone_encoder(vectors)
        hidden, spliced = read_prompts(encoder, table, self._template, prompts, own, (LAYER,))
        mask = spliced.mask.to(hidden)
        return TextCond((hidden * mask[..., None]).to(self.dtype), mask=mask)

    def _denoise(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        # Time runs the other way there, from noise at 0 to the picture at 1, and so does the velocity.
        outputs = self.denoiser(
            list(x_t.to(self.dtype).unsqueeze(2).unbind()),  # c 1 h w each: a film of one picture
            (1000 - t) / 1000,
            _without_padding(cond),
        ).sample
        return -torch.stack(outputs).squeeze(2).to(x_t.dtype)

    def pose_map(self, output: Any) -> Float[Tensor, "b c h w"]:
        h, w = self.latent_shape[1] // 2, self.latent_shape[2] // 2
        return map_of_tokens(output[:, : h * w], h, w)  # the picture stands before the text here

    def passes_a_step(self, guidance: float) -> int:
        return 2 if guidance > 0 else 1

    def pipeline_arguments(self, cond: TextCond, negative_prompt: str, guidance: float) -> dict[str, Any]:
        """As `Backbone`; the stock pipeline goes `guidance` times beyond the text's own answer, and 0 is without."""
        arguments = {
            "prompt_embeds": _without_padding(cond),
            "guidance_scale": guidance,
            "height": self.image_size,
            "width": self.image_size,
        }
        if self.passes_a_step(guidance) == 2:
            # One a picture, as the stock pipeline encodes it: a batch of another size would be rounded otherwise.
            away = self.encode_text([negative_prompt] * len(cond.hidden))
            arguments["negative_prompt_embeds"] = _without_padding(away)
        return arguments


def _without_padding(cond: TextCond) -> list[Tensor]:
    """The positions of every prompt that hold a token: one (l, d) tensor a prompt."""
    assert cond.mask is not None
    return [hidden[mask.bool()] for hidden, mask in zip(cond.hidden, cond.mask, strict=True)]
