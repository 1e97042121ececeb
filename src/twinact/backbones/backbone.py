"""The interface of every text-to-image model.

Letters in shapes: b batch, c h w channels and sides of a latent (H W of a picture), l text positions, d text width,
p pooled width. Pictures are float in [-1, 1], latents are scaled as the denoiser sees them.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from twinact.backbones.cross_attention import TIMES, Reader, packed
from twinact.backbones.latents import to_latents, to_pictures
from twinact.backbones.memory import Savings, applied, offload, on_device
from twinact.backbones.noising import Noising
from twinact.backbones.quantised import quantise
from twinact.backbones.text import by_encoder, places_of, pool_at_end, silence_cut_warnings, token_embedding
from twinact.backbones.weights import reading
from twinact.backbones.whole import check_networks, check_words, text_encoders
from twinact.errors import DataError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LONGEST_SIDE = 8192  # of a picture, in pixels
JOINT_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Linear layers of attention over text and picture together, as most transformers of diffusers name them."""


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

    @cached_property
    def space(self) -> str:
        """ " " under tokenizers that keep the space before a word in its token, otherwise ""."""
        return " " if self.ids(" a", as_written=True) != self.ids("a", as_written=True) else ""

    def ids(self, text: str, *, as_written: bool = False) -> list[int]:
        """Token ids of a text, without special tokens and never truncated.

        Args:
            text: Words as they stand inside of a prompt: after a space, where that matters (`space`).
            as_written: The text begins as it is written; nothing is put before it.
        """
        text = text if as_written or not text else self.space + text
        return self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids

    def embed(self, text: str) -> Float[Tensor, "tokens width"]:
        """Embeddings of a text's tokens, without special tokens; no positions are added."""
        return self.weight[torch.tensor(self.ids(text), dtype=torch.long, device=self.weight.device)]


@dataclass(frozen=True)
class TextCond:
    """What the text encoders give to the denoiser.

    Attributes:
        hidden: (b, l, d) one vector per text position; of a long text, see `twinact.backbones.cross_attention`.
        pooled: (b, p) one vector per prompt, or None where the model has no use for it.
        mask: (b, l) 1 at positions that the denoiser looks at, 0 at others; None where it looks at all.
    """

    hidden: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b p"] | None = None
    mask: Float[Tensor, "b l"] | None = None


@dataclass
class Passes:
    """Pictures that the denoiser has seen through `Backbone.predict`.

    Attributes:
        forward: All of them.
        backward: Those whose prediction can be differentiated.
    """

    forward: int = 0
    backward: int = 0


class Backbone(ABC):
    """One text-to-image model: frozen, in eval mode, and the same to a method whatever its family.

    A family says with class attributes which stock pipeline it is, what its denoiser is called there, how many of its
    text encoders, from the first, are pooled at their end token, and whether "(word:1.2)" in a prompt gives a weight.

    Attributes:
        denoiser: The network that predicts noise; LoRA attaches to it.
        lora_targets: Names of the linear layers in it that LoRA adapts.
        guidance: What to draw with if nothing else is said: the model's own, or what its family is mostly used with.
        steps: Denoising steps to draw with if nothing else is said; few in distilled models.
        noising: How clean latents become noisy ones and back.
        intent_steps, ground, square: See `twinact.backbones.facts.ModelFacts`.
        folder: Where the model was read from; None for one that was made in memory.
        model_id: Name, and what the model is known by, as in "name@digits"; see `twinact.backbones.weights.identity`.
        tokenizer_hash: 16 hex digits over the vocabulary and merges of all tokenizers.
        pose_block: Name, inside the denoiser, of the block whose output tells where limbs are; see `pose_map`.
        passes: What the denoiser has done so far.
        cross_attention: What the cross-attention layers of a UNet read, by name, in the order in which they are run;
            empty in families without such layers, as all with joint attention are.
        marked: Placeholders whose places the cross-attention layers are told; see
            `twinact.backbones.token_lora`.
        device, dtype: Where the modules are and in which precision they compute.
        quantised: How the weights of their linear layers are rounded: "int8", "nf4" or None.
        latent_shape: (c, h, w) of one picture's latents.
        image_size, longest_side: Side of a picture in pixels; the longest that it draws.
    """

    denoiser: nn.Module
    lora_targets: tuple[str, ...]
    pose_block: str
    guidance: float
    steps: int = 25
    intent_steps: int | None = None
    ground: float | None = None
    square: bool = False
    folder: Path | None = None
    noising: Noising
    model_id: str
    tokenizer_hash: str
    device: torch.device
    dtype: torch.dtype
    quantised: str | None = None
    latent_shape: tuple[int, int, int]
    image_size: int
    longest_side: int = LONGEST_SIDE

    stock: ClassVar["type[DiffusionPipeline]"]
    denoiser_name: ClassVar[str]
    pooled_encoders: ClassVar[int]
    weighs_prompts: ClassVar[bool] = False

    def __init__(self, pipeline: "DiffusionPipeline", model_id: str) -> None:
        """Takes over the modules of a stock pipeline: they are frozen and put in eval mode."""
        self.model_id = model_id
        self.passes = Passes()
        self.cross_attention: Mapping[str, Reader] = {}
        self.marked: tuple[str, ...] = ()
        self._scheduler = pipeline.scheduler
        self._parts = {
            name: part
            for name, part in pipeline.components.items()
            if name in ("vae", self.denoiser_name) or name.startswith(("text_encoder", "tokenizer"))
        }
        for part in self._parts.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        self.denoiser, self._vae = self._parts[self.denoiser_name], self._parts["vae"]
        self.device, self.dtype = self.denoiser.device, self.denoiser.dtype
        self._autoencoders: list[nn.Module] = [self._vae]
        names = [name for name, part in self._parts.items() if name.startswith("text_encoder") and part is not None]
        self._text_encoders = {name: self._parts[name] for name in sorted(names)}
        self._tokenizers = [self._parts[name.replace("text_encoder", "tokenizer")] for name in self._text_encoders]
        encoders = list(self._text_encoders.values())[: self.pooled_encoders]
        for encoder, tokenizer in zip(encoders, self._tokenizers, strict=False):
            pool_at_end(encoder, tokenizer)
        self.tokenizer_hash = hash_tokenizers(self._tokenizers)

    @classmethod
    def from_folder(
        cls, folder: Path, model_id: str, device: torch.device, dtype: torch.dtype, quantised: str | None = None
    ) -> "Backbone":
        """Reads a folder in diffusers layout, safetensors only.

        Only the denoiser goes to the device; whether the other networks follow it (`onload`) or not (`offload`)
        is the caller's choice. With `quantised`, "int8" or "nf4", weights of linear layers are rounded one by one on
        the device, so that a denoiser larger than it can be opened.

        Raises:
            CheckpointError: The folder's weights are missing or damaged, or a network or tokenizer is not whole.
        """
        options = {**reading(folder, dtype), **cls._loading_options(folder)}
        options |= {name: part for name, part in text_encoders(folder, options).items() if name not in options}
        pipeline = cls.stock.from_pretrained(folder, **options)
        check_networks(pipeline, folder)
        denoiser = getattr(pipeline, cls.denoiser_name)
        if quantised is not None:
            quantise(denoiser, quantised, device)
        denoiser.to(device)
        backbone = cls(pipeline, model_id)
        backbone.quantised = quantised
        if quantised is not None:
            for encoder in backbone._text_encoders.values():
                quantise(encoder, quantised, device)
        for table in backbone.token_tables():
            check_words(table, folder)
        return backbone

    @classmethod
    def _loading_options(cls, folder: Path) -> dict[str, Any]:
        """What else the stock pipeline of the family is read with."""
        return {}

    def token_tables(self) -> list[TokenTable]:
        """Tokenizer and embeddings of every text encoder, in the order in which `encode_text` takes vectors."""
        return [
            TokenTable(name, tokenizer, token_embedding(encoder).weight)
            for (name, encoder), tokenizer in zip(self._text_encoders.items(), self._tokenizers, strict=True)
        ]

    def _lone_encoder(
        self, vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None
    ) -> tuple[nn.Module, TokenTable, dict[str, Float[Tensor, "_ _"]]]:
        """For families with one text encoder: it, its token table and its vectors; errors as `by_encoder`."""
        (own,), (table,) = by_encoder(vectors, 1, self.model_id), self.token_tables()
        return self._text_encoders[table.name], table, own

    def encode_image(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Latents of pictures in [-1, 1]: the encoder's mean, not a sample; scaled for the denoiser."""
        return to_latents(self._vae, images)

    def decode_latents(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Pictures in [-1, 1] of scaled latents; differentiable, values may overshoot as the decoder lets them."""
        return to_pictures(self._vae, latents)

    def encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "*_ _ _"]]] | None = None
    ) -> TextCond:
        """Encodes prompts as the stock pipeline does, with learned vectors in the place of placeholders.

        Args:
            prompts: One text per picture; each may hold any number of the placeholders, or none, and weights of words,
                which also count for placeholders; see `twinact.backbones.prompt_weights`.
            vectors: Placeholder, as in "<act>", to one (slots, width) tensor per text encoder. Each placeholder takes
                `slots` positions. Differentiable. Vectors that differ between the layers of `cross_attention` are
                (layers, slots, width), and (`TIMES`, layers, slots, width) if they change over time as well; the
                prompts are then encoded for every layer, and every time. What is pooled is the mean over all.

        Raises:
            DataError: A placeholder stands further back than any text encoder reads, a tensor has the wrong shape, or
                a weight is out of range.
        """
        given = dict(vectors or {})
        most = max((value.ndim for own in given.values() for value in own), default=2)
        if most == 2:
            return self._encode_marked(prompts, given)
        layers = len(self.cross_attention)
        self._check_layers(given, layers)
        conds: list[TextCond] = []
        for time, layer in product(range(TIMES if most == 4 else 1), range(layers)):
            part = {said: [_part(one, time, layer) for one in own] for said, own in given.items()}
            with silence_cut_warnings() if conds else nullcontext():  # once is enough
                conds.append(self._encode_marked(prompts, part))
        pooled = [cond.pooled for cond in conds if cond.pooled is not None]
        hidden = torch.cat([cond.hidden for cond in conds], dim=1)
        return TextCond(hidden, torch.stack(pooled).mean(dim=0) if pooled else None)

    def _encode_marked(self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]]) -> TextCond:
        cond = self._encode_text(prompts, vectors)
        if not self.marked:
            return cond
        marks = [places_of(said, self.token_tables(), prompts, vectors) for said in self.marked]
        return replace(cond, hidden=packed([mark.to(cond.hidden) for mark in marks], cond.hidden))

    def _check_layers(self, vectors: Mapping[str, Sequence[Float[Tensor, "*_ _ _"]]], layers: int) -> None:
        for said, own in vectors.items():
            for value in own:
                leading, needed = tuple(value.shape[:-2]), ((), (layers,), (TIMES, layers))
                if leading not in needed or not (layers or leading == ()):
                    has = f"{layers} of them" if layers else "none: its text and picture attend to one another"
                    raise DataError(
                        f"vectors of {said!r} of shape {tuple(value.shape)} differ between cross-attention layers, and "
                        f"model {self.model_id!r} has {has}; they were made for another model"
                    )

    @abstractmethod
    def _encode_text(
        self, prompts: Sequence[str], vectors: Mapping[str, Sequence[Float[Tensor, "_ _"]]] | None = None
    ) -> TextCond:
        """`encode_text` with the same vectors for all layers."""

    def predict(
        self, x_t: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        """The denoiser's output for noisy latents at times t; counted in `passes`."""
        prediction = self._denoise(x_t, t, cond)
        self.passes.forward += len(x_t)
        self.passes.backward += len(x_t) if prediction.requires_grad else 0
        return prediction

    @abstractmethod
    def _denoise(
        self, x_t: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"], cond: TextCond
    ) -> Float[Tensor, "b c h w"]:
        """`predict`, in the words of the family's denoiser."""

    @abstractmethod
    def pose_map(self, output: Any) -> Float[Tensor, "b c h w"]:
        """What `pose_block` has put out for latents of `latent_shape`, as a map of features."""

    def clean(
        self, x_t: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"], prediction: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The clean latents that a prediction implies."""
        return self.noising.clean(x_t, t, prediction)

    def pipeline_arguments(self, cond: TextCond, negative_prompt: str, guidance: float) -> dict[str, Any]:
        """What to call `pipeline()` with, besides steps and generators, to draw one picture per item of `cond`.

        Args:
            cond: Text conditioning, one row for each picture.
            negative_prompt: What guidance leads away from.
            guidance: Its strength; 1 or less turns classifier-free guidance off.

        Raises:
            ConfigError: The family takes no negative prompt and there is one.
        """
        # One a picture, as the stock pipelines encode it: a batch of another size would be rounded otherwise.
        away = self.encode_text([negative_prompt] * len(cond.hidden))
        texts = cond.hidden.shape[1] // away.hidden.shape[1]
        arguments = {
            "prompt_embeds": cond.hidden,
            "negative_prompt_embeds": away.hidden.repeat(1, texts, 1),
            "guidance_scale": guidance,
        }
        if cond.pooled is not None and away.pooled is not None:
            arguments["pooled_prompt_embeds"] = cond.pooled
            arguments["negative_pooled_prompt_embeds"] = away.pooled
        return arguments

    def passes_a_step(self, guidance: float) -> int:
        """How often the denoiser sees a picture in each step of its drawing: twice under classifier-free guidance."""
        return 2 if guidance > 1 else 1

    def offload(self) -> None:
        """Leaves autoencoder and text encoders in the machine's memory; a text encoder visits the device when used."""
        offload(list(self._text_encoders.values()), self._autoencoders, self.device)

    def onload(self) -> None:
        """Puts autoencoder and text encoders onto the denoiser's device."""
        for module in (*self._text_encoders.values(), *self._autoencoders):
            module.to(self.device)

    @contextmanager
    def autoencoder_on_device(self) -> Iterator[None]:
        """While open, the autoencoder is on the device, even if `offload` has put it elsewhere; not under autograd."""
        with on_device(self._autoencoders, self.device):
            yield

    @contextmanager
    def saving(self, savings: Savings) -> Iterator[None]:
        """While open, learning takes less memory or time; everything computes the same. See `applied`."""
        with applied(self.denoiser, list(self._text_encoders.values()), self._autoencoders, self.device, savings):
            yield

    def pipeline(self) -> "DiffusionPipeline":
        """The stock diffusers pipeline: shares the modules, has a scheduler of its own."""
        # Schedulers keep state between steps: two pipelines at work must not share one.
        scheduler = type(self._scheduler).from_config(self._scheduler.config)
        return self.stock(**self._parts, scheduler=scheduler, **self._pipeline_options())

    def _pipeline_options(self) -> dict[str, Any]:
        """What else the stock pipeline of the family is made with."""
        return {}


def _part(vectors: Float[Tensor, "*_ s d"], time: int, layer: int) -> Float[Tensor, "s d"]:
    """The vectors of one layer at one time."""
    vectors = vectors[time] if vectors.ndim == 4 else vectors
    return vectors[layer] if vectors.ndim == 3 else vectors


def hash_tokenizers(tokenizers: Sequence[PreTrainedTokenizerBase]) -> str:
    """First 16 hex digits of the SHA-256 over the vocabularies and merges of tokenizers, in order."""
    described = []
    for tokenizer in tokenizers:
        model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        # A merge is written "a b" by some versions of `tokenizers` and ["a", "b"] by others.
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
        described.append([sorted(tokenizer.get_vocab().items()), merges])
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
