"""FLUX.2 klein, base and distilled."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import Flux2KleinPipeline
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones.backbone import JOINT_ATTENTION, Backbone, TextCond
from twinact.backbones.features import map_of_last, middle_block
from twinact.backbones.noising import FlowNoising
from twinact.backbones.qwen import chat_template, drop_unread_layers, language_model, read_prompts
from twinact.errors import ConfigError

# The outputs of these layers of the text encoder are what the transformer was trained with.
LAYERS = (9, 18, 27)


class Flux2Klein(Backbone):
    """A Qwen3 of which three layers are read, a transformer over 2 x 2 patches of latents, flow matching.

    Latents are those patches, as the transformer sees them: 128 channels of a sixteenth of the picture's side, each
    normalised with the autoencoder's own statistics.
    """

    guidance = 4.0
    stock, denoiser_name, pooled_encoders = Flux2KleinPipeline, "transformer", 0

    def __init__(self, pipeline: Flux2KleinPipeline, model_id: str) -> None:
        """As `Backbone`.

        Raises:
            ConfigError: The scheduler is not a flow-matching one, or the text encoder has too few layers.
            CheckpointError: The tokenizer has no chat template.
        """
        super().__init__(pipeline, model_id)
        drop_unread_layers(self._text_encoders["text_encoder"], max(LAYERS), model_id)
        self._text_encoders = {name: language_model(one) for name, one in self._text_encoders.items()}
        self._template = chat_template(self._tokenizers[0], model_id, thinking=False)
        self._distilled = bool(pipeline.config.is_distilled)
        if self._distilled:
            self.guidance, self.steps = 1.0, 4
        config = self.denoiser.config
        # In the first blocks "to_out" is a list of which the first is a layer; the others are one layer each.
        self.lora_targets = (
            *JOINT_ATTENTION, "to_qkv_mlp_proj",
            *(f"single_transformer_blocks.{i}.attn.to_out" for i in range(config.num_single_layers)),
        )  # fmt: skip
        self.image_size = self._vae.config.sample_size
        side = self.image_size // (2 * pipeline.vae_scale_factor)
        self.latent_shape = (config.in_channels, side, side)
        self.noising = FlowNoising.from_scheduler(self._scheduler, side**2, self.device)
        self.pose_block = middle_block(self.denoiser, "transformer_blocks", "single_transformer_blocks")

    def encode_image(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        latents = self._vae.encode(images.to(self._vae.device, self._vae.dtype)).latent_dist.mode()
        patches = F.pixel_unshuffle(latents, 2)  # channels before places in a patch
        mean, deviation = self._statistics(patches)
        return (patches - mean) / deviation

    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        patches = latents.to(self._vae.device, self._vae.dtype)
        mean, deviation = self._statistics(patches)
        return self._vae.decode(F.pixel_shuffle(patches * deviation + mean, 2)).sample.to(latents.device)

    def _statistics(self, patches: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel over the pictures that the model was trained on."""
        norm = self._vae.bn
        mean = norm.running_mean.view(1, -1, 1, 1).to(patches)  # 1 c 1 1
        deviation = torch.sqrt(norm.running_var.view(1, -1, 1, 1) + self._vae.config.batch_norm_eps)
        return mean, deviation.to(patches)

    def _encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        encoder, table, own = self._lone_encoder(vectors)
        hidden, _ = read_prompts(encoder, table, self._template, prompts, own, LAYERS)
        return TextCond(hidden.to(self.dtype))

    def _denoise(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        b, c, h, w = x_t.shape
        none, words = torch.arange(1), torch.arange(cond.hidden.shape[1])
        predicted = self.denoiser(
            x_t.flatten(2).transpose(1, 2),  # b hw c
            timestep=t.to(x_t.dtype) / 1000,  # the transformer multiplies it again
            encoder_hidden_states=cond.hidden,
            # Picture, row, column and word of every position.
            txt_ids=torch.cartesian_prod(none, none, none, words).to(self.device),
            img_ids=torch.cartesian_prod(none, torch.arange(h), torch.arange(w), none).to(self.device),
        ).sample
        return predicted.transpose(1, 2).reshape(b, c, h, w)

    def pose_map(self, output: Any) -> Float[Tensor, "b c h w"]:
        return map_of_last(output, *self.latent_shape[1:])

    def passes_a_step(self, guidance: float) -> int:
        return 1 if self._distilled else super().passes_a_step(guidance)

    def pipeline_arguments(self, cond: TextCond, negative_prompt: str, guidance: float) -> dict[str, Any]:
        if self._distilled and negative_prompt:
            raise ConfigError(
                f"negative prompt {negative_prompt!r} cannot be used: {self.model_id} is distilled and draws without "
                "guidance, which leads away from nothing; leave it out, or use the base model"
            )
        arguments = {
            "prompt_embeds": cond.hidden,
            "guidance_scale": guidance,
            "height": self.image_size,
            "width": self.image_size,
        }
        if self.passes_a_step(guidance) == 2:
            # One a picture, as the stock pipeline encodes it: a batch of another size would be rounded otherwise.
            arguments["negative_prompt_embeds"] = self.encode_text([negative_prompt] * len(cond.hidden)).hidden
        return arguments

    def _pipeline_options(self) -> dict[str, Any]:
        return {"is_distilled": self._distilled}
