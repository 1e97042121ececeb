"""Learned token vectors as embedding files of A1111, Forge, ComfyUI, InvokeAI and diffusers, and back.

What each of them accepts differs; the keys written here are those that all readers of a family know.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from twinact.action import Action
from twinact.errors import CheckpointError, ConfigError
from twinact.export.base import FLUX, SD, SD3, SDXL, Base
from twinact.export.modelspec import about, pack, trigger
from twinact.files import atomic_write_bytes

# ComfyUI moves up to 7 tokens of an embedding as a whole and may cut longer ones across chunks.
MAX_VECTORS = 7
BUNDLE = "bundle_emb."
"""Begins the keys of embeddings inside of LoRA files."""
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
    """

    keys: tuple[str, ...]
    implementation: str
    aliases: dict[str, str]
    spellings: dict[str, tuple[str, ...]]
    required: int
    names: tuple[str, ...]

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
        ("flux",),
    ),
}
NEWER = (SD3, FLUX)
"""Families of which A1111, Forge and InvokeAI read no embeddings: they have none for T5."""
# Keys that tell for which text encoder a tensor is.
_ENCODERS = ("clip_l", "clip_h", "clip_g", "t5xxl", "t5")


def export_embedding(action: Action, base: Base, folder: str | Path) -> list[Path]:
    """Write an action's vectors for other tools, under its `trigger`. A LoRA it has is not in them.

    ``<trigger>.safetensors`` is for A1111, Forge and ComfyUI (SD3 and FLUX.1: ComfyUI alone), and for
    `load_textual_inversion` with ``token=``.
    Families with one text encoder also get ``<trigger>/learned_embeds.safetensors``, whose key is the token itself.

    Args:
        action: Learned on a model like the base.
        base: Of the model.
        folder: Made if missing; files of these names are replaced.

    Returns:
        The files, as `embedding_files` names them.

    Raises:
        ConfigError: The family is unknown, the action has vectors for another number of text encoders, or too many
            of them.
        DataError: The folder cannot be written.
    """
    layout = layout_of(base.family)
    tensors = words_of(action, base.family)
    word = trigger(action.name)
    usage = f"{'' if base.family in NEWER else f'A1111, Forge: {word}; '}ComfyUI: embedding:{word}"
    metadata = about(action, f"{base.architecture}/textual-inversion", layout.implementation, usage)
    metadata["modelspec.is_negative_embedding"] = "false"
    contents = (tensors, {word: action.vectors[0]})
    return [
        atomic_write_bytes(path, pack(content, metadata))
        for path, content in zip(embedding_files(action.name, base.family, folder), contents, strict=False)
    ]


def embedding_files(name: str, family: str, folder: str | Path) -> tuple[Path, ...]:
    """Where `export_embedding` writes the file of most tools and, for one text encoder, that of diffusers."""
    folder, word = Path(folder), trigger(name)
    shared, own = folder / f"{word}.safetensors", folder / word / "learned_embeds.safetensors"
    return (shared, own) if len(layout_of(family).keys) == 1 else (shared,)


def words_of(action: Action, family: str) -> dict[str, Tensor]:
    """An action's vectors under the keys of a family; errors as `export_embedding`."""
    layout = layout_of(family)
    if not layout.required <= len(action.vectors) <= len(layout.keys):
        raise ConfigError(
            f"action {action.name!r} has vectors for {len(action.vectors)} text encoders and {family} has "
            f"{len(layout.keys)}: it was made for {action.model_id!r}"
        )
    count = len(action.vectors[0])
    if count > MAX_VECTORS:
        raise ConfigError(
            f"action {action.name!r} has {count} vectors; other tools keep at most {MAX_VECTORS} together"
        )
    tensors = dict(zip(layout.keys, action.vectors, strict=False))
    return tensors | {alias: tensors[key] for key, alias in layout.aliases.items() if key in tensors}


def import_embedding(path: str | Path, family: str, *, name: str, model_id: str, widths: Sequence[int]) -> Action:
    """Read an embedding file of any of these tools as an action without coefficients.

    Args:
        path: A safetensors file; other formats run code when they are read, and are refused.
        family: Pipeline class of the model, as `twinact.backbones.family` gives it.
        name: Of the action.
        model_id: Of the model that it is for.
        widths: Of the model's text encoders, in the order of `Backbone.token_tables`.

    Raises:
        CheckpointError: It is no safetensors file, damaged, or made for another family.
    """
    layout, path = layout_of(family), Path(path)
    check_format(path)
    tensors, architecture = read_tensors(path)
    bundled = {key.split(".", 2)[2]: value for key, value in tensors.items() if key.startswith(BUNDLE)}
    found = bundled or tensors  # those of a bundle (``bundle_emb.<name>.<key>``) under their last name
    foreign = [key for key in _ENCODERS if key in found and key not in layout.known]
    if foreign:
        raise CheckpointError(f"{path} has {', '.join(foreign)}: it is made for another family than {family}")
    if any(architecture.startswith(other.names) for other in LAYOUTS.values() if other is not layout):
        raise CheckpointError(f"{path} says that it is made for {architecture.partition('/')[0]}, not for {family}")
    vectors = []
    for key, width in zip(layout.keys, widths, strict=False):
        tensor = next((found[k] for k in (key, *layout.spellings.get(key, ())) if k in found), None)
        if tensor is None and len(layout.keys) == len(found) == 1:
            tensor = next(iter(found.values()))  # diffusers and InvokeAI name the tensor after the token
        if tensor is None:
            keys = ", ".join(sorted(found)[:4]) + (", …" if len(found) > 4 else "")
            raise CheckpointError(f"{path} has {keys} and no {key}: it is made for another family")
        tensor = tensor.float().reshape(-1, tensor.shape[-1])
        if tensor.shape[1] != width:
            raise CheckpointError(
                f"{path}: {key} is {tensor.shape[1]} wide and the model takes {width}: it is made for another model"
            )
        vectors.append(tensor)
    return Action(name, vectors, model_id, meta={"imported": path.name})


def check_format(path: Path) -> None:
    """Raises a CheckpointError for files that are not named as safetensors."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is not a safetensors file; formats that run code when read are refused")


def layout_of(family: str) -> Layout:
    if family not in LAYOUTS:
        raise ConfigError(f"models of class {family} are not supported: use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[family]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors of a foreign file, and the architecture that its header names, "" if none.

    Raises:
        CheckpointError: It is damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            architecture = (file.metadata() or {}).get("modelspec.architecture", "")
            return {key: file.get_tensor(key) for key in file.keys()}, architecture.lower()  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}; copy it again") from error
