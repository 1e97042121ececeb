"""``twinact learn``, ``adjust`` and ``combine``: from exemplars to actions."""

import json
import os
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinact.cli.many import CLUSTERS, action_folders, action_name, learn_many
from twinact.cli.terminal import SCHEMA_VERSION, AsJson, Memory, Model, Precision, open_model, with_suffix
from twinact.configs import METHODS, SCHEDULES, LearnConfig, RunConfig
from twinact.errors import ConfigError
from twinact.outputs import new_file
from twinact.terminal import is_main_process, progress, say

if TYPE_CHECKING:
    from twinact.action import Action
    from twinact.space import ActionSpace

_SUFFIX = ".action.safetensors"
# Pixels of pictures that are only looked at to see whether they can be used.
_LOOKED_AT = 64

SpaceFile = Annotated[Path | None, typer.Option("--space", help="Space of the action, if not beside it.")]
ActionFile = Annotated[Path, typer.Argument(metavar="ACTION", help="An .action.safetensors file.")]
NewAction = Annotated[Path, typer.Option("--out", help="File of the new action; its stem becomes the name.")]


def learn(
    exemplars: Annotated[
        Path, typer.Argument(metavar="EXEMPLARS_DIR", help="Folder of pictures of the action, with captions.")
    ],
    name: Annotated[str | None, typer.Option(help="Of the action; taken from the folder if not given.")] = None,
    model: Model = "nano",
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; runs/<name> if not given.")] = None,
    space: Annotated[Path | None, typer.Option("--space", help="Action space; built if not given.")] = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = LearnConfig.method,
    steps: Annotated[int, typer.Option(help="Optimiser steps of the whole run.")] = LearnConfig.steps,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = LearnConfig.batch_size,
    learning_rate: Annotated[float | None, typer.Option(help="At the first step; the method's own if not given.")] = (
        LearnConfig.learning_rate
    ),
    schedule: Annotated[str, typer.Option(help=f"One of {', '.join(SCHEDULES)}.")] = LearnConfig.schedule,
    start: Annotated[
        str | None, typer.Option(help="Phrase to start from; TwinAct finds the nearest if not given.")
    ] = LearnConfig.start,
    similarity_weight: Annotated[
        float | None,
        typer.Option(
            help=f"Of the action similarity term; {LearnConfig.similarity_weight:g}, or 0 for a model without "
            "action encoder, if not given."
        ),
    ] = None,
    prior_weight: Annotated[float, typer.Option(help="Of the mean squared coefficient.")] = LearnConfig.prior_weight,
    rank: Annotated[int | None, typer.Option(help="Learn only so many components of a slot.")] = LearnConfig.rank,
    slots: Annotated[int, typer.Option(help="Token vectors that the action takes, 1 to 7.")] = LearnConfig.slots,
    lora_rank: Annotated[
        int, typer.Option(help="Of a LoRA learned beside the token vectors; 0: none, 8 is usual.")
    ] = LearnConfig.lora_rank,
    lora_learning_rate: Annotated[float, typer.Option(help="Of the LoRA at the first step.")] = (
        LearnConfig.lora_learning_rate
    ),
    noise_bias: Annotated[float, typer.Option(help="Preference for noisy timesteps, 0 up to 1.")] = (
        LearnConfig.noise_bias
    ),
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = LearnConfig.seed,
    precision: Precision = None,
    memory: Memory = None,
    accumulate: Annotated[
        int | None,
        typer.Option(help="Parts to take the pictures of a step in; as many as memory asks for if not given."),
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = RunConfig.checkpoint_every,
    preview_every: Annotated[
        int | None,
        typer.Option(help="Steps between previews, drawn into the run folder; a quarter of all if not given, 0: none."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help=f"Where to learn many actions: {', '.join(CLUSTERS)}; here if not given.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Of many actions: further tries after a crash or a lack of memory.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Learn the action that a folder of pictures shows, or one action from each folder in a folder.

    Stopped runs go on when the command is given again. With accelerate launch -m twinact learn ..., several GPUs share
    the pictures of each step.
    """
    options = dict(locals())  # every setting is an option of its own name
    given = {field.name: options[field.name] for field in fields(LearnConfig)}
    options["precision"] = _agreed_precision(precision)
    if preview_every is None:
        options["preview_every"] = max(1, steps // 4)
    said = {field.name: options[field.name] for field in fields(RunConfig) if options[field.name] is not None}
    RunConfig(**said)
    if similarity_weight is None:
        del given["similarity_weight"]
    folders = action_folders(exemplars)
    if folders and name:
        raise ConfigError(f"name {name!r} is of one action and '{exemplars}' holds {len(folders)}; leave it out")
    if cluster is not None and cluster not in CLUSTERS:
        raise ConfigError(f"cluster {cluster!r} must be one of {', '.join(CLUSTERS)}; leave it out to learn here")
    if cluster is not None and not folders:
        raise ConfigError(f"cluster {cluster!r} is for a folder that holds one folder per action; leave it out")
    names = [name or action_name(exemplars)] if not folders else [action_name(folder) for folder in folders]
    configs = [LearnConfig(**{**given, "name": one}) for one in names]  # before anything is loaded
    from twinact.space import ActionSpace

    # What cannot be used is told before a model of gigabytes is read: the space, the pictures, the run folder.
    given_space = None if space is None else ActionSpace.load(space)
    if folders:
        learn_many(
            folders,
            configs,
            said,
            out or Path("runs"),
            model=model,
            space=space,
            similarity_given=similarity_weight is not None,
            cluster=cluster,
            retries=retries,
            as_json=as_json,
        )
        return
    config = configs[0]
    from twinact import workflow
    from twinact.exemplars import DEFAULT_CAPTION, load_exemplars
    from twinact.run_report import report_run
    from twinact.suited import run_config

    looked_at = load_exemplars(exemplars, _LOOKED_AT)
    captions, masked = looked_at.captions, sum(mask is not None for mask in looked_at.masks)
    if DEFAULT_CAPTION in captions:
        say(
            f"{captions.count(DEFAULT_CAPTION)} of {len(captions)} pictures have no caption: name actor and place in a "
            ".txt beside each ('a woman <act> in a park'), so that they are not learned with the action"
        )
    if masked:
        say(f"{masked} of {len(captions)} pictures have a mask: of these, only what is white in it counts")
    run_dir = out or Path("runs") / config.name
    run = run_config(said, model, config.batch_size, run_dir)
    backbone = open_model(model, run.precision, run.memory)
    encoder = workflow.action_encoder(model)
    if encoder is None and similarity_weight is None:
        config = LearnConfig(**{**given, "name": config.name, "similarity_weight": 0.0})
        if config.method == "twinact":
            say("this model has no action encoder: learning without the similarity term")
    with progress(f"learning {config.name}") as advance:
        result = workflow.learn(
            exemplars,
            config,
            run_dir,
            backbone=backbone,
            encoder=encoder,
            space=given_space,
            searching=lambda done, total: advance(done, total, "looking for the nearest phrase"),
            progress=lambda record: advance(record.step, record.steps),
            run=run,
        )
    if not is_main_process():
        return
    if result.already_done:
        say("this run is already done")
    say(f"report: {report_run(run_dir, exemplars, result.action)}")
    near = []
    if result.action.coefficients is not None:
        near = _nearest(result.action, ActionSpace.load(result.action_path.parent / workflow.SPACE_FILE))
    option = "" if model == "nano" else f" --model {shlex.quote(model)}"
    say(f'next: twinact generate {shlex.quote(str(result.action_path))}{option} --prompt "a panda <act> in a park"')
    if not as_json:
        typer.echo(result.action_path)
        return
    facts = {
        "schema_version": SCHEMA_VERSION,
        "action": str(result.action_path),
        "name": result.action.name,
        "model": result.action.model_id,
        "steps": config.steps,
        "resumed_from": result.resumed_from,
        "already_done": result.already_done,
        "terms": result.terms,
        "nearest": [{"phrase": text, "similarity": round(similarity, 4)} for text, similarity in near],
    }
    typer.echo(json.dumps(facts, indent=2))


def adjust(
    action_file: ActionFile,
    out: NewAction,
    amount: Annotated[float, typer.Option(help="Standard deviations, or with --toward the share of the way.")],
    component: Annotated[str | None, typer.Option(metavar="SLOT:INDEX", help="Counted from 0, as in 0:2.")] = None,
    toward: Annotated[str | None, typer.Option(help="A phrase of the space, or an action file.")] = None,
    space: SpaceFile = None,
    model: Model = "nano",
) -> None:
    """Move an action. Along one component of its space, or towards a phrase or another action."""
    if (component is None) == (toward is None):
        raise ConfigError("give either --component SLOT:INDEX or --toward PHRASE")
    place = None if component is None else _component(component)
    target = new_file(with_suffix(out, _SUFFIX))
    from twinact.action import Action

    action = Action.load(action_file)
    kept = _space_of(action, action_file, space, model)
    name = target.name.removesuffix(_SUFFIX)
    if place is not None:
        moved = action.adjusted(kept, place, amount, name)
    else:
        assert toward is not None
        goal = Action.load(toward) if toward.endswith(_SUFFIX) else toward
        moved = action.toward(kept, goal, amount, name)
    _finish(moved, kept, target)


def combine(
    action_files: Annotated[list[Path], typer.Argument(metavar="ACTION ACTION...", help="Of one space.")],
    out: NewAction,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W,...", help="One per action, any sign; all alike if not given.")
    ] = None,
    space: SpaceFile = None,
    model: Model = "nano",
) -> None:
    """Combine two or more actions of one space into one."""
    factors = None if weights is None else _numbers(weights)
    target = new_file(with_suffix(out, _SUFFIX))
    from twinact.action import Action

    first, *others = [Action.load(path) for path in action_files]
    kept = _space_of(first, action_files[0], space, model)
    _finish(first.combined(kept, others, factors, target.name.removesuffix(_SUFFIX)), kept, target)


def _agreed_precision(precision: str | None) -> str | None:
    """What was said here or to accelerate; refuses when both were said and differ."""
    configured = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if configured == "no":
        return precision
    if precision not in (None, configured):
        raise ConfigError(
            f"precision {precision!r} differs from the {configured!r} that accelerate is configured for; "
            f"give --precision {configured}, or accelerate launch --mixed_precision no"
        )
    return configured


def _nearest(action: "Action", space: "ActionSpace") -> list[tuple[str, float]]:
    """Tells the phrases nearest to an action, and gives them."""
    explanation = action.explain(space)
    say("nearest phrases: " + ", ".join(f"{text} ({similarity:.2f})" for text, similarity, _ in explanation.phrases))
    if explanation.norm > explanation.largest_phrase_norm:
        say(f"note: {explanation.norm:.1f} times as far out as a typical phrase, further than any phrase")
    return [(text, similarity) for text, similarity, _ in explanation.phrases]


def _space_of(action: "Action", path: Path, given: Path | None, model: str) -> "ActionSpace":
    from twinact.space import ActionSpace
    from twinact.workflow import space_of

    return space_of(action, path, model) if given is None else ActionSpace.load(given)


def _finish(action: "Action", space: "ActionSpace", target: Path) -> None:
    action.save(target)
    _nearest(action, space)
    typer.echo(target)


def _component(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise ConfigError(f"component {text!r} must be SLOT:INDEX with whole numbers from 0, e.g. 0:2")
    return int(match[1]), int(match[2])


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"weights {text!r} must be numbers with commas between, e.g. 1,0.5") from None
