"""What every text-to-image model looks like from the inside of twinact.

Letters in shapes: b batch, c h w channels and sides of a latent (H W of a picture), l text positions, d text width,
p pooled width. Pictures are float in [-1, 1], latents are scaled as the denoiser sees them.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from twinact.backbones.memory import Savings, awake, rest, saved
from twinact.backbones.noising import Noising

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class TokenTable:
    """Tokenizer and token embeddings of one text encoder.

    Attributes:
        name: Name of the text encoder inside the pipeline, as in "text_encoder".
        tokenizer: The stock tokenizer.
        weight: (vocabulary, width) the encoder's own embedding table; frozen.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    weight: Float[Tensor, "vocabulary width"]

    @property
    def width(self) -> int:
        """Length of one token's vector."""
        return self.weight.shape[1]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens and never truncated."""
        return self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids

    def embed(self, text: str) -> Float[Tensor, "tokens width"]:
        """Embeddings of a text's tokens, without special tokens; no positions are added."""
        return self.weight[torch.tensor(self.ids(text), dtype=torch.long, device=self.weight.device)]


@dataclass(frozen=True)
class TextCond:
    """What the text encoders give to the denoiser.

    Attributes:
        hidden: (b, l, d) one vector per text position.
        pooled: (b, p) one vector per prompt, or None where the model has no use for it.
    """

    hidden: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b p"] | None = None


class Backbone(ABC):
    """One text-to-image model: frozen, in eval mode, and the same to a method whatever its family.

    Attributes:
        denoiser: The network that predicts noise; LoRA attaches to it.
        lora_targets: Names of the linear layers in it that LoRA adapts.
        guidance: What the stock pipeline draws with if nothing else is said.
        noising: How clean latents become noisy ones and back.
        model_id: Name and short hash of the weights, as in "name@hash"; compared by `same_model`.
        tokenizer_hash: 16 hex digits over the vocabulary and merges of all tokenizers.
        device, dtype: Where and in which precision the modules are.
        latent_shape: (c, h, w) of one picture's latents.
        image_size: Side of a picture in pixels.
    """

    denoiser: nn.Module
    lora_targets: tuple[str, ...]
    guidance: float
    noising: Noising
    model_id: str
    tokenizer_hash: str
    device: torch.device
    dtype: torch.dtype
    latent_shape: tuple[int, int, int]
    image_size: int
    _text_encoders: list[nn.Module]  # in the order of `token_tables`
    _autoencoders: list[nn.Module]

    @classmethod
    @abstractmethod
    def from_folder(cls, folder: Path, model_id: str, device: torch.device, dtype: torch.dtype) -> "Backbone":
        """Reads a folder in diffusers layout, safetensors only.

        Only the denoiser goes to the device; whether the other networks follow it or `rest` is the caller's choice.

        Raises:
            CheckpointError: The folder's weights are missing or damaged.
        """

    @abstractmethod
    def token_tables(self) -> list[TokenTable]:
        """Tokenizer and embeddings of every text encoder, in the order in which `encode_text` takes vectors."""

    @abstractmethod
    def encode_image(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Latents of pictures in [-1, 1]: the encoder's mean, not a sample; scaled for the denoiser."""

    @abstractmethod
    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Pictures in [-1, 1] of scaled latents; differentiable, values may overshoot as the decoder lets them."""

    @abstractmethod
    def encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        """Encodes prompts as the stock pipeline does, with learned vectors in the place of placeholders.

        Args:
            prompts: One text per picture; each may hold any number of the placeholders, or none.
            vectors: Placeholder, as in "<act>", to one (slots, width) tensor per text encoder. Each placeholder takes
                `slots` positions. Differentiable.

        Raises:
            DataError: A placeholder stands further back than any text encoder reads, or a tensor has the wrong shape.
        """

    @abstractmethod
    def predict(
        self, x_t: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        """The denoiser's output for noisy latents at times t."""

    def clean(
        self, x_t: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"], prediction: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The clean latents that a prediction implies."""
        return self.noising.clean(x_t, t, prediction)

    def pipeline_arguments(self, cond: TextCond, negative_prompt: str, guidance: float) -> dict[str, Any]:
        """What to call `pipeline()` with, besides steps and generators, to draw one picture per item of `cond`.

        Args:
            cond: Of the pictures.
            negative_prompt: What guidance leads away from.
            guidance: Its strength; 1 or less turns classifier-free guidance off.

        Raises:
            ConfigError: The family takes no negative prompt and there is one.
        """
        # One a picture, as the stock pipelines encode it: a batch of another size would be rounded otherwise.
        away = self.encode_text([negative_prompt] * len(cond.hidden))
        arguments = {
            "prompt_embeds": cond.hidden,
            "negative_prompt_embeds": away.hidden,
            "guidance_scale": guidance,
        }
        if cond.pooled is not None and away.pooled is not None:
            arguments["pooled_prompt_embeds"] = cond.pooled
            arguments["negative_pooled_prompt_embeds"] = away.pooled
        return arguments

    def rest(self) -> None:
        """Leaves autoencoder and text encoders in the machine's memory; a text encoder visits the device when used."""
        rest(self._text_encoders, self._autoencoders, self.device)

    def follow(self) -> None:
        """Puts autoencoder and text encoders onto the denoiser's device."""
        for module in (*self._text_encoders, *self._autoencoders):
            module.to(self.device)

    @contextmanager
    def seeing(self) -> Iterator[None]:
        """While open, the autoencoder is on the device even if it rests otherwise; not under autograd."""
        with awake(self._autoencoders, self.device):
            yield

    @contextmanager
    def saving(self, savings: Savings) -> Iterator[None]:
        """While open, learning takes less memory or time; everything computes the same. See `saved`."""
        with saved(self.denoiser, self._text_encoders, self._autoencoders, self.device, savings):
            yield

    @abstractmethod
    def pipeline(self) -> "DiffusionPipeline":
        """The stock diffusers pipeline: shares the modules, has a scheduler of its own."""


def hash_tokenizers(tokenizers: Sequence[PreTrainedTokenizerBase]) -> str:
    """First 16 hex digits of the SHA-256 over the vocabularies and merges of tokenizers, in order."""
    described = []
    for tokenizer in tokenizers:
        model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        # A merge is written "a b" by some versions of `tokenizers` and ["a", "b"] by others.
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
        described.append([sorted(tokenizer.get_vocab().items()), merges])
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
