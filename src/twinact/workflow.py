"""From names and folders to models, spaces and actions: the steps that command line, demo and benchmark share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from twinact.action import Action
from twinact.backbones import family, load
from twinact.backbones.base import Backbone
from twinact.backbones.memory import PRESETS
from twinact.backbones.weights import same_model
from twinact.configs import LearnConfig, RunConfig
from twinact.encoders import ActionEncoder, load_action_encoder
from twinact.errors import ConfigError
from twinact.exemplars import load_exemplars
from twinact.export import import_action
from twinact.gradients import out_of_memory_told
from twinact.methods import make_method
from twinact.phrases import load_phrases
from twinact.previews import Previews
from twinact.processes import this_process
from twinact.runs import settings_of
from twinact.space import ActionSpace
from twinact.start import starting_phrase
from twinact.train import StepRecord, TrainResult, train

SPACE_FILE = "phrases.space.safetensors"
_WEIGHTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def open_model(
    model: str | Path = "nano", precision: str = "fp32", memory: str = "normal", device: str | None = None
) -> Backbone:
    """The model of a name, a folder in diffusers layout or a Hugging Face name; see `twinact.backbones.load`.

    Args:
        model: What to open.
        precision: Of the weights; of `twinact.configs.PRECISIONS`.
        memory: Of `twinact.configs.MEMORY`; with "low", autoencoder and text encoders never rest on the device.
        device: None takes the first GPU or the CPU; each of several processes its own.

    Raises:
        OutOfMemory: It does not fit.
        TwinactError: As `load`.
    """
    advice = "less is needed with precision bf16 and memory low; or close what else uses it"
    with out_of_memory_told(f"opening model {str(model)!r}", advice):
        return load(model, device or this_process().device, _WEIGHTS[precision], resting=PRESETS[memory].offload)


def action_encoder(model: str | Path = "nano") -> ActionEncoder | None:
    """The action encoder that comes with a model, or None: only folders and "nano" can have one."""
    from twinact.nano import model_dir

    return load_action_encoder(model_dir() if str(model) == "nano" else Path(model).expanduser())


def default_space(backbone: Backbone, slots: int = 3) -> ActionSpace:
    """The space of the shipped phrases in a model; in nano, of those that it can draw.

    Nano brings its own as a file, the same on every machine, so that its actions can be exchanged and combined.

    Args:
        backbone: Whose token embeddings span it.
        slots: Token vectors per action.

    Raises:
        ConfigError, DataError: As `ActionSpace.build`.
    """
    if backbone.model_id.startswith("nano@"):
        from twinact.nano import model_dir

        shipped = ActionSpace.load(model_dir() / SPACE_FILE)
        if same_model(shipped.model_id, backbone.model_id):
            return shipped if shipped.slots == slots else build_space(backbone, slots=slots, phrases=shipped.phrases)
    return build_space(backbone, slots=slots)


def build_space(
    backbone: Backbone, rank: int | None = None, *, slots: int = 3, phrases: Sequence[str] | None = None
) -> ActionSpace:
    """Build an action space; equal arguments give the same bits on one machine.

    Args:
        backbone: Whose token embeddings span it.
        rank: Components to keep in every slot; None keeps all.
        slots: Token vectors per action.
        phrases: What spans it; None takes the shipped list.

    Raises:
        ConfigError, DataError: As `ActionSpace.build`.
    """
    texts = [phrase.text for phrase in load_phrases()] if phrases is None else phrases
    threads = torch.get_num_threads()
    # Sums over several threads differ in the last bits with their number, and with them the hash of the space.
    torch.set_num_threads(1)
    try:
        return ActionSpace.build(
            backbone.token_tables(),
            texts,
            slots=slots,
            rank=rank,
            model_id=backbone.model_id,
            tokenizer_hash=backbone.tokenizer_hash,
        )
    finally:
        torch.set_num_threads(threads)


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
    for candidate in sorted(Path(path).parent.glob("*.space.safetensors")):
        space = ActionSpace.load(candidate)
        if space.hash == action.space_hash:
            return space
    space = default_space(open_model(model, device="cpu"), slots=len(action.coefficients))
    action.check(space_hash=space.hash, model_id=space.model_id)
    return space


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
        return next((part.vectors for part in self.parts if part.vectors), ())

    @property
    def loras(self) -> list[Mapping[str, Tensor]]:
        """Of all files that have one."""
        return [part.lora for part in self.parts if part.lora]


def load_actor(paths: Sequence[str | Path], backbone: Backbone, model: str | Path = "nano") -> Actor:
    """Reads a customised actor: embeddings and LoRAs of other tools, or what ``twinact import`` made of them.

    Args:
        paths: Files, at most one of them with an embedding; none gives an actor that is nothing.
        backbone: The model that it is for.
        model: What the backbone was opened from.

    Raises:
        CheckpointError: A file cannot be used with the model.
        ConfigError: Two files hold an embedding.
    """
    parts = []
    for path in map(Path, paths):
        if path.name.endswith(".action.safetensors"):
            part = Action.load(path)
            part.check(model_id=backbone.model_id)
        else:
            part = import_action(path, family(model), name="actor", backbone=backbone)
        parts.append(part)
    if sum(bool(part.vectors) for part in parts) > 1:
        raise ConfigError(
            f"{len(parts)} actor files hold more than one embedding: give one embedding, and LoRAs if any"
        )
    return Actor(tuple(parts))


def learn(
    exemplars: str | Path,
    config: LearnConfig,
    run_dir: str | Path,
    *,
    backbone: Backbone,
    encoder: ActionEncoder | None = None,
    space: ActionSpace | None = None,
    searching: Callable[[int, int], None] | None = None,
    progress: Callable[[StepRecord], None] | None = None,
    run: RunConfig | None = None,
) -> TrainResult:
    """Learn the action that a folder of pictures shows; the same call goes on with a run that was stopped.

    Without ``config.start``, TwinAct begins at the phrase of its space under which the model finds the exemplars
    likeliest. The run folder also receives the space (`SPACE_FILE`), so that the action can be moved on any machine,
    and previews if `run` asks for them.

    Args:
        exemplars: Folder of pictures with captions; see `twinact.exemplars.load_exemplars`.
        config: The settings.
        run_dir: The run's own folder.
        backbone: See `open_model`.
        encoder: See `action_encoder`; needed when `config.similarity_weight` is above 0 and the method uses it.
        space: None takes the one in the run folder, else the default space of the backbone.
        searching: Called while the starting phrase is looked for, with the share done as (part, whole).
        progress: Called after each step.
        run: How to carry it out; None takes the defaults.

    Raises:
        TwinactError: As `load_exemplars`, `make_method` and `train`; `run_dir` is looked at first.
        KeyboardInterrupt: The run was stopped; its checkpoint is saved, or what the search has found.
    """
    run, group = run or RunConfig(), this_process()
    # Also refuses a folder that is not ours before anything takes time.
    begun = group.on_main(lambda: settings_of(run_dir)) or {}
    data = load_exemplars(exemplars, backbone.image_size)
    kept = Path(run_dir) / SPACE_FILE
    drawn = Previews(backbone, run_dir, config, run) if run.preview_every else None
    if config.method != "twinact":
        method = make_method(config, backbone)
        return train(method, backbone, data, config, run_dir, progress, run=run, checkpointed=drawn)
    if space is None:

        def find_space() -> ActionSpace:
            return ActionSpace.load(kept) if kept.is_file() else default_space(backbone, slots=config.slots)

        space = group.on_main(find_space)
    found = space
    if config.start is None:

        def find_start() -> str:
            if begun.get("start") is not None:
                return str(begun["start"])
            return starting_phrase(backbone, found, data, run_dir, run, searching)

        config = replace(config, start=group.on_main(find_start))
    method = make_method(config, backbone, space, encoder)
    result = train(method, backbone, data, config, run_dir, progress, run=run, checkpointed=drawn)

    def keep_space() -> None:
        if not kept.is_file():  # only now: a folder that holds no run yet must be empty
            found.save(kept)

    group.on_main(keep_space)
    return result
