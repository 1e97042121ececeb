"""Opens models, spaces and actors from names and files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from twinact import ACTOR_PLACEHOLDER
from twinact.action import Action
from twinact.backbones import family, load
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import DTYPES, PRESETS, explain_out_of_memory
from twinact.backbones.token_lora import at
from twinact.backbones.weights import difference, same_model
from twinact.configs.settings import check_choice
from twinact.console import say
from twinact.errors import CheckpointError, ConfigError
from twinact.export import import_action
from twinact.intent import Meant
from twinact.jobs.resources import choose_resources
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE, build_space
from twinact.storage import ACTION_SUFFIX, SPACE_SUFFIX
from twinact.training.processes import this_process

_QUANTISED = ("int8", "nf4")


def open_model(
    model: str | Path = "nano", precision: str = "fp32", memory: str = "normal", device: str | None = None
) -> Backbone:
    """The model of a name, a folder in diffusers layout or a Hugging Face name; see `twinact.backbones.load`.

    Args:
        model: What to open.
        precision: Precision of the weights; one of `twinact.configs.PRECISIONS`.
        memory: One of `twinact.configs.MEMORY`; with "low", autoencoder and text encoders are offloaded.
        device: None takes the first GPU or the CPU; each of several processes its own.

    Raises:
        ConfigError: There is no such precision or memory.
        OutOfMemory: It does not fit.
        TwinactError: As `load`.
    """
    check_choice("precision", precision, DTYPES)
    check_choice("memory", memory, PRESETS)
    advice = "less is needed with precision int8 or nf4 and memory low; or close what else uses it"
    with explain_out_of_memory(f"opening model {str(model)!r}", advice):
        quantised = precision if precision in _QUANTISED else None
        where, offload = device or this_process().device, PRESETS[memory].offload
        return load(model, where, DTYPES[precision], quantised=quantised, offload=offload)


def open_with_message(
    model: str | Path, precision: str = "fp32", memory: str = "normal", device: str | None = None
) -> Backbone:
    """As `open_model`, and says so first, since it takes seconds."""
    say(f"opening model {model}")
    return open_model(model, precision, memory, device)


def precision_of(backbone: Backbone) -> str:
    """The word of `twinact.configs.PRECISIONS` for the weights of a model that is open."""
    return backbone.quantised or next(name for name, dtype in DTYPES.items() if dtype == backbone.dtype)


def default_space(backbone: Backbone, slots: int = 3) -> ActionSpace:
    """The space in the model's folder, else that of the shipped phrases.

    Nano's folder holds the space of the phrases that it can draw. The file is the same on every machine, so that
    actions of nano can be exchanged and combined.

    Args:
        backbone: Whose token embeddings span it.
        slots: Token vectors per action.

    Raises:
        ConfigError, DataError: As `ActionSpace.build`.
    """
    own = None if backbone.folder is None else backbone.folder / SPACE_FILE
    if own is not None and own.is_file():
        shipped = ActionSpace.load(own)
        if shipped.tokenizer_hash == backbone.tokenizer_hash and shipped.is_of(backbone.token_tables()):
            if shipped.slots != slots:
                return build_space(backbone, slots=slots, phrases=shipped.phrases)
            return replace(shipped, model_id=backbone.model_id)  # only token embeddings make a space
    return build_space(backbone, slots=slots)


def adopted(space: ActionSpace, backbone: Backbone, tell: Callable[[str], None]) -> ActionSpace:
    """A space from a file as that of a model, if it was built for one with the same token embeddings.

    Only token embeddings make a space, so a base model, its distilled one, its fine-tunes and whatever else shares its
    text encoder share it, too. What phrases look like is another matter: the poses of another model are left out. A
    space that fits less is returned as it is, and refused by the method.

    Args:
        space: As read.
        backbone: The model.
        tell: Receives whose space it is, if it is another model's.
    """
    if same_model(space.model_id, backbone.model_id) or space.tokenizer_hash != backbone.tokenizer_hash:
        return space
    if not space.is_of(backbone.token_tables()):
        return space
    poses = "" if space.poses is None else ", and the poses of its phrases are left out"
    tell(
        f"the action space was built for {space.model_id!r}, which has the same token embeddings "
        f"({difference(space.model_id, backbone.model_id)}); it is used{poses}"
    )
    return replace(space, model_id=backbone.model_id, poses=None)


def space_of(action: Action, path: str | Path, model: str | Path = "nano") -> ActionSpace:
    """The space that an action lives in: a file beside it, else the default space of the model.

    Args:
        action: With coefficients.
        path: The file that it was read from.
        model: Opened only when no file beside the action is its space.

    Raises:
        ConfigError: The action has no coefficients.
        CheckpointError: A space beside it is damaged, or neither a file nor the model's space is its own.
    """
    if action.coefficients is None:
        raise ConfigError(
            f"action {action.name!r} has no coefficients, because it was learned outside the action space; "
            "learn it with method 'twinact'"
        )
    damaged: CheckpointError | None = None
    for candidate in sorted(Path(path).parent.glob(f"*{SPACE_SUFFIX}")):
        try:
            space = ActionSpace.load(candidate)
        except CheckpointError as error:  # it may be of another action
            damaged = error
            continue
        if space.hash == action.space_hash:
            return space
    space = default_space(open_model(model, device="cpu"), slots=action.coefficients.shape[1])
    try:
        action.check(space_hash=space.hash, model_id=space.model_id)
    except CheckpointError as error:
        raise damaged or error from None
    return space


def asked_of(model: str | Path, action: Action, space: ActionSpace) -> Meant | None:
    """Who tells what an action's model means by other words; None, with a message, where nobody can.

    Args:
        model: Opened, if the space has poses.
        action, space: What is moved, and its space.

    Raises:
        TwinactError: As `open_model` and `Meant.of`.
    """
    if space.poses is None:
        return None
    chosen = choose_resources(model)
    backbone = open_with_message(model, chosen.precision, chosen.memory)
    if not same_model(backbone.model_id, action.model_id):
        say(
            f"note: {model} is not the model of action {action.name!r} ({action.model_id}), so the words are "
            "those that its space finds likeliest; give its own --model, and that is asked for better ones"
        )
        return None
    return Meant.of(backbone, space)


@dataclass(frozen=True)
class Actor:
    """A customised actor, read from one or more files.

    Attributes:
        parts: What the files hold, in order.
    """

    parts: tuple[Action, ...]

    @property
    def vectors(self) -> Sequence[Tensor]:
        """For `twinact.ACTOR_PLACEHOLDER`, one tensor per text encoder; empty if all files are LoRAs alone."""
        words = [part for part in self.parts if part.vectors]
        return [
            next((part.vectors[index] for part in words if index not in _plain(part)), words[0].vectors[index])
            for index in range(len(words[0].vectors) if words else 0)
        ]

    @property
    def loras(self) -> list[Mapping[str, Tensor]]:
        """The LoRAs of all files that have one."""
        return [at(ACTOR_PLACEHOLDER, part.lora) for part in self.parts if part.lora]


def _plain(part: Action) -> set[int]:
    """Text encoders that read a part's word as it is written; see `twinact.export.import_embedding`."""
    return set(part.meta.get("plain") or ())


def load_actor(paths: Sequence[str | Path], backbone: Backbone, model: str | Path = "nano") -> Actor:
    """Reads a customised actor: embeddings and LoRAs of other tools, or what ``twinact import`` made of them.

    Args:
        paths: Files, at most one of them with an embedding; none gives an actor that is nothing.
        backbone: The model that it is for.
        model: What the backbone was opened from.

    Raises:
        CheckpointError: A file cannot be used with the model.
        ConfigError: Two files hold an embedding for the same text encoder.
    """
    parts = []
    for path in map(Path, paths):
        if path.name.endswith(ACTION_SUFFIX):
            part = Action.load(path)
            part.check(model_id=backbone.model_id)
        else:
            part = import_action(path, family(model), name="actor", backbone=backbone)
        parts.append(part)
    taught = [index for part in parts for index in range(len(part.vectors)) if index not in _plain(part)]
    if len(taught) != len(set(taught)):
        raise ConfigError(
            f"{len(parts)} actor files hold more than one embedding for a text encoder: give one embedding for each, "
            "and LoRAs if any"
        )
    return Actor(tuple(parts))
