"""Writes learned token vectors as embedding files of A1111, Forge, ComfyUI, InvokeAI and diffusers, and reads them.

What each of them accepts differs; the keys written here are those that all readers of a family know.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from twinact.action import Action
from twinact.data.folder import composed
from twinact.errors import CheckpointError, ConfigError, DataError, OutOfMemory, first_line, lacks_memory
from twinact.export.kinds import BUNDLE
from twinact.export.modelspec import about, is_whole, pack, trigger
from twinact.export.target import CHROMA, FLUX, FLUX2, SD, SD3, SDXL, Z_IMAGE, Base
from twinact.storage import check_regular, write_all_new

MAX_VECTORS = 75
"""That fit into one chunk of a prompt in CLIP."""
KEPT_TOGETHER = 7
"""Vectors that ComfyUI moves as a whole; more may be cut in two where a prompt goes on in another chunk."""
_STABILITY = "https://github.com/Stability-AI/generative-models"


@dataclass(frozen=True)
class Layout:
    """How a family's embedding files look.

    Attributes:
        keys: Key of each text encoder's vectors, in the order of `Backbone.token_tables`.
        implementation: ModelSpec's, for files of these keys.
        aliases: Key to a second one under which other readers look for the same vectors.
        spellings: Further keys that readers must understand, by key.
        required: Text encoders that every model of the family has; the ones after them may be left out.
        names: How ModelSpec's architecture of the family begins, in files of any tool.
        wider: Width to the key of the first text encoder in larger models of the family.
    """

    keys: tuple[str, ...]
    implementation: str
    aliases: dict[str, str]
    spellings: dict[str, tuple[str, ...]]
    required: int
    names: tuple[str, ...]
    wider: dict[int, str] = field(default_factory=dict)

    @property
    def known(self) -> set[str]:
        """All keys that may hold vectors of the family."""
        return {*self.keys, *(key for others in self.spellings.values() for key in others)}


LAYOUTS: dict[str, Layout] = {
    # One tensor only, whatever its key: A1111 refuses a second one.
    SD: Layout(
        ("emb_params",),
        _STABILITY,
        {},
        {"emb_params": ("emp_params", "clip_l", "clip_h", "string_to_param.*")},
        1,
        ("stable-diffusion-v1", "stable-diffusion-v2"),
    ),
    SDXL: Layout(
        ("clip_l", "clip_g"),
        _STABILITY,
        {},
        {"clip_l": ("text_encoders_0",), "clip_g": ("text_encoders_1",)},  # older pivotal tuning of diffusers
        2,
        ("stable-diffusion-xl",),
    ),
    SD3: Layout(
        ("clip_l", "clip_g", "t5xxl"),
        _STABILITY,
        {"t5xxl": "t5"},
        {"t5xxl": ("t5",)},
        2,
        ("stable-diffusion-v3", "stable-diffusion-3"),
    ),
    FLUX: Layout(
        ("clip_l", "t5xxl"),
        "https://github.com/black-forest-labs/flux",
        {"t5xxl": "t5"},
        {"t5xxl": ("t5",)},
        2,
        ("flux-1", "flux1", "flux.1"),
    ),
    FLUX2: Layout(
        ("qwen3_4b",),
        "https://github.com/black-forest-labs/flux2",
        {},
        {"qwen3_4b": ("qwen3_8b",)},
        1,
        ("flux-2", "flux2", "flux.2"),
        {4096: "qwen3_8b"},
    ),
    Z_IMAGE: Layout(("qwen3_4b",), "https://github.com/Tongyi-MAI/Z-Image", {}, {}, 1, ("z-image", "zimage")),
    CHROMA: Layout(
        ("t5xxl",), "https://huggingface.co/lodestones/Chroma1-HD", {"t5xxl": "t5"}, {"t5xxl": ("t5",)}, 1, ("chroma",)
    ),
}
NEWER = (SD3, FLUX, FLUX2, Z_IMAGE, CHROMA)
"""Families of which A1111, Forge and InvokeAI read no embeddings: they have none for T5 and for language models."""
# Of which the stock pipeline reads a file with the word as its key.
_FOR_DIFFUSERS = (SD, CHROMA)
# Keys that tell for which text encoder a tensor is.
_ENCODERS = ("clip_l", "clip_h", "clip_g", "t5xxl", "t5", "qwen3_4b", "qwen3_8b")


def export_embedding(action: Action, base: Base, folder: str | Path) -> list[Path]:
    """Write an action's vectors for other tools, under its `trigger`. A LoRA it has is not in them.

    ``<trigger>.safetensors`` is for A1111, Forge and ComfyUI (families in `NEWER`: ComfyUI alone), and for
    `load_textual_inversion` with ``token=``.
    Stable Diffusion 1 and 2 and Chroma also get ``<trigger>/learned_embeds.safetensors``, whose key is the token.

    Args:
        action: Learned on a model like the base.
        base: Base of the model.
        folder: Made if missing.

    Returns:
        The files, as `embedding_files` names them; all of them are new, or none is written.

    Raises:
        ConfigError: The family is unknown, the action has vectors for another number of text encoders, or too many
            of them.
        NameTaken: A file of one of these names is there.
        DataError: The folder cannot be written.
    """
    return write_all_new(embedding_contents(action, base, folder))


def embedding_contents(action: Action, base: Base, folder: str | Path) -> dict[Path, bytes]:
    """What `export_embedding` writes, by file; arguments and errors as there."""
    layout = layout_of(base.family)
    tensors = words_of(action, base.family)
    word = trigger(action.name)
    usage = f"{'' if base.family in NEWER else f'A1111, Forge: {word}; '}ComfyUI: embedding:{word}"
    metadata = about(action, f"{base.architecture}/textual-inversion", layout.implementation, usage)
    metadata["modelspec.is_negative_embedding"] = "false"
    contents = (tensors, {word: action.vectors[0]})
    return {
        path: pack(content, metadata)
        for path, content in zip(embedding_files(action.name, base.family, folder), contents, strict=False)
    }


def embedding_files(name: str, family: str, folder: str | Path) -> tuple[Path, ...]:
    """Where `export_embedding` writes the file of most tools and, where there is one, that of diffusers."""
    folder, word = Path(folder), trigger(name)
    shared, own = folder / f"{word}.safetensors", folder / word / "learned_embeds.safetensors"
    layout_of(family)
    return (shared, own) if family in _FOR_DIFFUSERS else (shared,)


def words_of(action: Action, family: str) -> dict[str, Tensor]:
    """An action's vectors under the keys of a family; errors as `export_embedding`."""
    layout = layout_of(family)
    if not layout.required <= len(action.vectors) <= len(layout.keys):
        raise ConfigError(
            f"action {action.name!r} has vectors for {len(action.vectors)} text encoders and {family} has "
            f"{len(layout.keys)}: it was made for {action.model_id!r}"
        )
    if action.by_layer:
        raise ConfigError(
            f"action {action.name!r} has vectors for every cross-attention layer, and other tools read one text for "
            "all: draw it with twinact, or learn it with another method than xti and neti"
        )
    count = action.slots
    if count > MAX_VECTORS:
        raise ConfigError(
            f"action {action.name!r} has {count} vectors; at most {MAX_VECTORS} fit into a prompt of other tools"
        )
    first = layout.wider.get(action.vectors[0].shape[1], layout.keys[0])
    tensors = dict(zip((first, *layout.keys[1:]), action.vectors, strict=False))
    return tensors | {alias: tensors[key] for key, alias in layout.aliases.items() if key in tensors}


def import_embedding(
    path: str | Path,
    family: str,
    *,
    name: str,
    model_id: str,
    widths: Sequence[int],
    word: str | None = None,
    plain: Callable[[int, str], Tensor] | None = None,
) -> Action:
    """Read an embedding file of any of these tools as an action without coefficients.

    A file for one text encoder of several, or for all but T5, is read where `plain` gives what the others read in its
    place: the word as it is written. Which these are stands under "plain" in the action's meta.

    Args:
        path: A safetensors file; other formats run code when they are read, and are refused.
        family: Pipeline class of the model, as `twinact.backbones.family` gives it.
        name: Name of the action.
        model_id: Id of the model that it is for.
        widths: Widths of the model's text encoders, in the order of `Backbone.token_tables`.
        word: Which of several words in the file; None where it holds one.
        plain: (number of a text encoder, text) → (tokens, width) embeddings of the text; None refuses such files.

    Raises:
        CheckpointError: It is no safetensors file, damaged, or made for another family, holds something that is not
            understood, or several words of which none was chosen.
    """
    layout, path = layout_of(family), Path(path)
    check_format(path)
    tensors, header = read_tensors(path)
    architecture = header.get("modelspec.architecture", "").lower()
    spoken, found = _chosen(path, _words(path, tensors, layout, widths), word)
    _check_understood(path, [key for key in found if key.endswith("_out") and key in _known_keys()])
    foreign = [key for key in _ENCODERS if key in found and key not in layout.known]
    if foreign:
        raise CheckpointError(f"{path} has {', '.join(foreign)}: it is made for another family than {family}")
    # Families that have their text encoder in common can have their words in common.
    if any(architecture.startswith(other.names) for other in LAYOUTS.values() if other.keys != layout.keys):
        raise CheckpointError(f"{path} says that it is made for {architecture.partition('/')[0]}, not for {family}")
    given = {key: _given(path, key, width, found, layout) for key, width in zip(layout.keys, widths, strict=False)}
    lacking = [key for key, tensor in given.items() if tensor is None]
    if lacking and not (plain and (len(given) - len(lacking) == 1 or lacking == ["t5xxl"])):
        keys = ", ".join(sorted(tensors)[:4]) + (", …" if len(tensors) > 4 else "")
        raise CheckpointError(f"{path} has {keys} and no {lacking[0]}: it is made for another family")
    text = " ".join(re.findall(r"[^\W_]+", spoken or path.stem)).lower()
    vectors = [
        plain(index, text) if tensor is None and plain is not None else tensor
        for index, tensor in enumerate(given.values())
    ]
    _check_understood(path, sorted(found.keys() - {key for key in layout.known if len(widths) < len(layout.keys)}))
    meta = {"imported": path.name, **({"plain": [list(given).index(key) for key in lacking]} if lacking else {})}
    return Action(name, [tensor for tensor in vectors if tensor is not None], model_id, meta=meta)


def _check_understood(path: Path, left: Sequence[str]) -> None:
    if left:
        raise CheckpointError(
            f"{path} has {left[0]!r}, which is not understood: without it the word would not mean what it was "
            "taught; save it without output embeddings"
        )


def _given(path: Path, key: str, width: int, found: dict[str, Tensor], layout: Layout) -> Tensor | None:
    """The vectors of one text encoder, which are taken out of what was found; None where there are none."""
    spelled = [k for k in (key, *layout.spellings.get(key, ())) if k in found]
    given = [found.pop(k) for k in spelled]
    if not given:
        return None
    if any(not torch.equal(given[0], other) for other in given[1:]):
        raise CheckpointError(f"{path} has different vectors under {' and '.join(spelled)}; remove all but one")
    shape, first = tuple(given[0].shape), given[0]
    if not first.is_floating_point() or not first.numel() or first.ndim not in (1, 2):
        raise CheckpointError(
            f"{path}: {spelled[0]} is {first.dtype} {shape}, expected numbers (vectors, {width}): it is no embedding, "
            "or one for every layer, which is not read"
        )
    tensor = first.float().reshape(-1, shape[-1])
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{path}: {spelled[0]} holds numbers that are not finite: copy it or export it again")
    if tensor.shape[1] != width:
        raise CheckpointError(
            f"{path}: {key} is {tensor.shape[1]} wide and the model takes {width}: it is made for another model"
        )
    return tensor


def _words(
    path: Path, tensors: Mapping[str, Tensor], layout: Layout, widths: Sequence[int]
) -> dict[str, dict[str, Tensor]]:
    """Each word that a file holds, with its tensors by key; "" is the word of a file that does not say it."""
    words: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(BUNDLE):
            word, own = bundled(key)
            words.setdefault(word, {})[own] = tensor
    if words:
        return words  # the other tensors are a LoRA
    if not _known_keys() & tensors.keys():  # diffusers and InvokeAI name tensors after words
        by_width = {width: key for key, width in zip(layout.keys, widths, strict=False)}
        alone = len(layout.keys) == 1
        return {
            key: {layout.keys[0] if alone else by_width.get((*tensor.shape, 0)[tensor.ndim - 1], key): tensor}
            for key, tensor in tensors.items()
        }
    return {"": dict(tensors)}


def bundled(key: str) -> tuple[str, str]:
    """Word and own key of an embedding inside of a LoRA file: bundle_emb.<word>.<key>; both may hold full stops."""
    own = next((one for one in _known_keys() if key.endswith(f".{one}")), key.rpartition(".")[2])
    return key[len(BUNDLE) : -len(own) - 1], own


def _known_keys() -> set[str]:
    """All keys under which some tool keeps vectors of some family."""
    every = {key for other in LAYOUTS.values() for key in (*other.known, *other.aliases.values())} | set(_ENCODERS)
    return every | {f"{key}_out" for key in every}  # OneTrainer's output embeddings


def _chosen(path: Path, words: Mapping[str, dict[str, Tensor]], word: str | None) -> tuple[str, dict[str, Tensor]]:
    if not words:
        raise CheckpointError(f"{path} holds no tensors; copy it or export it again")
    if word is None and len(words) == 1:
        return next(iter(words.items()))
    if word is not None:
        word = next((one for one in words if composed(one) == composed(word)), word)
    if word is None or word not in words:
        what = "holds several words" if word is None else f"does not hold the word {word!r}"
        raise CheckpointError(f"{path} {what}; import it with --word and one of: {', '.join(filter(None, words))}")
    return word, words[word]


def check_format(path: Path) -> None:
    """Raises a CheckpointError for files that are not there, or not named as safetensors."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a safetensors file")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give a safetensors file, such as one in it")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is not a safetensors file; formats that run code when read are refused")


def layout_of(family: str) -> Layout:
    if family not in LAYOUTS:
        raise ConfigError(f"models of class {family} are not supported: use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[family]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a foreign file, and its metadata.

    Raises:
        CheckpointError: It is damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        whole = is_whole(path)
    except (SafetensorError, OSError, ValueError, DataError, MemoryError) as error:
        if lacks_memory(error):
            raise OutOfMemory(f"{path} does not fit into memory; close what else uses it") from error
        raise CheckpointError(f"{path} cannot be read as safetensors: {first_line(error)}; copy it again") from error
    if not whole:
        raise CheckpointError(f"{path} is damaged: its content is not what its hash was made of; copy it again")
    return tensors, metadata
