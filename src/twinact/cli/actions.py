"""``twinact adjust``, ``combine``, ``refine`` and ``explain``: from actions to new ones, and what they are made of."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinact import ACTOR_PLACEHOLDER
from twinact.cli.options import SCHEMA_VERSION, AsJson, Model, with_suffix
from twinact.cli.outputs import new_file
from twinact.configs import AMOUNTS, MAX_STEPS, REFINE_STEPS, check_number
from twinact.configs.settings import check_choice
from twinact.console import progress, say
from twinact.errors import ConfigError
from twinact.storage import ACTION_SUFFIX

if TYPE_CHECKING:
    from twinact.action import Action
    from twinact.space import ActionSpace


SpaceFile = Annotated[Path | None, typer.Option("--space", help="Space of the action, if not beside it.")]
ActionFile = Annotated[Path, typer.Argument(metavar="ACTION", help="An .action.safetensors file.")]
NewAction = Annotated[Path, typer.Option("--out", help="File of the new action; its stem becomes the name.")]


def _list_sliders(asked: bool) -> None:
    if not asked:
        return
    say("loading torch")
    from twinact.space.sliders import SLIDERS

    for name, slider in SLIDERS.items():
        typer.echo(f"{name:16}  {slider.help}")
    raise typer.Exit


def adjust(
    action_file: ActionFile,
    out: NewAction,
    amount: Annotated[
        float,
        typer.Option(
            help="With --slider from -1 to 1, with --toward the share of the way, with --component a step in standard "
            "deviations."
        ),
    ],
    slider: Annotated[str | None, typer.Option(help="Limb to move, as in 'left arm up'; see --list.")] = None,
    toward: Annotated[str | None, typer.Option(help="Phrase of the space, or action file, to move towards.")] = None,
    component: Annotated[
        str | None, typer.Option(metavar="SLOT:INDEX", help="Component to move along, counted from 0, as in 0:2.")
    ] = None,
    space: SpaceFile = None,
    model: Model = "nano",
    list_: Annotated[
        bool,
        typer.Option(
            "--list", is_eager=True, callback=_list_sliders, help="List the sliders, with their ends at -1 / 1."
        ),
    ] = False,
) -> None:
    """Move an action. By a named slider, towards a phrase or another action, or along one component of its space."""
    if sum(way is not None for way in (slider, toward, component)) != 1:
        raise ConfigError("give one of --slider NAME, --toward PHRASE and --component SLOT:INDEX")
    check_number("--amount", amount, AMOUNTS)
    place = None if component is None else _component(component)
    target = new_file(with_suffix(out, ACTION_SUFFIX))
    say(f"reading {action_file}")
    from twinact.action import Action
    from twinact.jobs.models import asked_of

    action = Action.load(action_file)
    kept = _space_of(action, action_file, space, model)
    name = target.name.removesuffix(ACTION_SUFFIX)
    if slider is not None:
        share = max(-1.0, min(1.0, amount))
        if share != amount:
            say(f"note: a slider goes from -1 to 1, so {share:g} is used instead of {amount:g}")
        moved = action.slid(kept, slider, share, name, asked_of(model, action, kept))
        _tell_off(moved)
    elif place is not None:
        moved = action.adjusted(kept, place, amount, name)
    else:
        assert toward is not None
        goal = Action.load(toward) if toward.endswith(ACTION_SUFFIX) else toward
        moved = action.toward(kept, goal, amount, name)
    _finish(moved, kept, target)


def combine(
    action_files: Annotated[list[Path], typer.Argument(metavar="ACTION ACTION...", help="Action files of one space.")],
    out: NewAction,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="PART of NAME, ...",
            help="Parts of the body by the names of their actions, as in 'arms of wave, legs of lunge': arms, legs, "
            "left arm, right arm, left leg, right leg, trunk. The first action keeps what is not named.",
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W,...", help="One weight per action, of any sign; balanced if not given.")
    ] = None,
    space: SpaceFile = None,
    model: Model = "nano",
) -> None:
    """Combine two or more actions of one space into one. By parts of the body, or as a weighted sum."""
    if parts is not None and weights is not None:
        raise ConfigError("give --parts or --weights, not both")
    factors = None if weights is None else _numbers(weights)
    asked = None if parts is None else _parts(parts)
    target = new_file(with_suffix(out, ACTION_SUFFIX))
    say(f"reading {', '.join(map(str, action_files))}")
    from twinact.action import Action
    from twinact.jobs.models import asked_of

    first, *others = actions = [Action.load(path) for path in action_files]
    kept = _space_of(first, action_files[0], space, model)
    name = target.name.removesuffix(ACTION_SUFFIX)
    if asked is None:
        combined = first.combined(kept, others, factors, name)
    else:
        known = {action.name: action for action in reversed(actions)}
        for _, giver in asked:
            check_choice("action in --parts", giver, known)
        given = [(known[giver], [part]) for part, giver in asked]
        combined = first.with_parts(kept, given, name, asked_of(model, first, kept))
        _tell_off(combined)
    _finish(combined, kept, target)


def refine(
    action_file: ActionFile,
    out: NewAction,
    actor: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Customised actor who is to do the action, as generate takes it; may be given again. The action is "
            "then for pictures with this actor.",
        ),
    ] = None,
    who: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Words for the one who does it, such as the trigger words of an actor that is a LoRA alone. If none "
            "are given, <actor> does it, and without an actor many known ones in turn.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, max=MAX_STEPS, help="Optimiser steps, of two prompts each.")
    ] = REFINE_STEPS,
    space: SpaceFile = None,
    model: Model = "nano",
) -> None:
    """Learn on from an action, until the model means the pose that it should show. It takes no exemplars.

    This takes half a minute on nano, on one core. It helps where words that are said together are not taken as they
    are meant, and where the LoRA of a customised actor bends what the action means. Nothing holds a jump in the air.
    """
    target = new_file(with_suffix(out, ACTION_SUFFIX))
    say(f"reading {action_file}")
    from twinact.action import Action
    from twinact.backbones.memory import PRESETS
    from twinact.jobs.models import load_actor, open_with_message
    from twinact.jobs.resources import choose_resources
    from twinact.training.refine import refined

    action = Action.load(action_file)
    kept = _space_of(action, action_file, space, model)
    chosen = choose_resources(model)
    backbone = open_with_message(model, chosen.precision, chosen.memory)
    actors = load_actor(actor or [], backbone, model)
    vectors = {ACTOR_PLACEHOLDER: actors.vectors} if actors.vectors else {}
    if who is None and actor:
        who = ACTOR_PLACEHOLDER
    if (ACTOR_PLACEHOLDER in (who or "")) != bool(vectors):
        raise ConfigError(
            f"--who {who!r} does not fit the actor: {ACTOR_PLACEHOLDER} stands for an embedding, and where there is "
            "none, the trigger words of a LoRA stand there, as in 'sks man'"
        )
    name = target.name.removesuffix(ACTION_SUFFIX)
    savings = replace(PRESETS[chosen.memory], compile=False)  # hardly longer than compiling takes
    with progress(f"refining {action.name}") as advance, backbone.saving(savings):
        found = refined(
            backbone,
            kept,
            action,
            name=name,
            who=who,
            vectors=vectors,
            loras=actors.loras,
            steps=steps,
            progress=advance,
        )
    say(f"refined: the model means a pose about {found.meta['history'][-1]['off']:.0f} degrees from the wanted one")
    _finish(found, kept, target)


def explain(
    action_file: ActionFile,
    phrases: Annotated[int, typer.Option(min=1, max=100, help="How many of the nearest phrases to tell.")] = 5,
    space: SpaceFile = None,
    model: Model = "nano",
    as_json: AsJson = False,
) -> None:
    """Tell what an action is made of. Its nearest phrases, what its exemplars showed and left unsaid, its history."""
    say(f"reading {action_file}")
    from twinact.action import Action
    from twinact.report.explanation import action_facts, facts_in_words

    action = Action.load(action_file)
    inside = action.coefficients is not None
    facts = action_facts(action, _space_of(action, action_file, space, model) if inside else None, phrases)
    if as_json:
        typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **facts}, indent=2))
    else:
        typer.echo("\n".join(facts_in_words(facts)))


def tell_nearest(action: "Action", space: "ActionSpace") -> list[tuple[str, float]]:
    """Tell the phrases nearest to an action, and return them with their similarities."""
    explanation = action.explain(space)
    say("nearest phrases: " + ", ".join(f"{text} ({similarity:.2f})" for text, similarity, _ in explanation.phrases))
    if explanation.beyond is not None:
        say(f"note: it lies outside of the phrases, {explanation.beyond:.1f} times as far out as the furthest of them")
    return [(text, similarity) for text, similarity, _ in explanation.phrases]


def _space_of(action: "Action", path: Path, given: Path | None, model: str) -> "ActionSpace":
    from twinact.jobs.models import space_of
    from twinact.space import ActionSpace

    return space_of(action, path, model) if given is None else ActionSpace.load(given)


def _tell_off(action: "Action") -> None:
    """Tell where the phrases do not reach what was asked of a limb."""
    from twinact.report.explanation import out_of_reach

    remark = out_of_reach(action)
    if remark:
        say(f"note: {remark}, so it goes as far as they do; twinact refine goes on from there")


def _finish(action: "Action", space: "ActionSpace", target: Path) -> None:
    action.save(target, new=True)
    tell_nearest(action, space)
    typer.echo(target)


def _component(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise ConfigError(f"component {text!r} must be SLOT:INDEX with whole numbers from 0, e.g. 0:2")
    return int(match[1]), int(match[2])


def _parts(text: str) -> list[tuple[str, str]]:
    """(part, name of its action) for each of "arms of wave, legs of lunge"."""
    found = []
    for one in text.split(","):
        part, of, name = one.strip().partition(" of ")
        if not of or not part.strip() or not name.strip():
            raise ConfigError(f"part {one.strip()!r} must be PART of NAME, e.g. 'arms of wave, legs of lunge'")
        found.append((part.strip(), name.strip()))
    return found


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"weights {text!r} must be numbers with commas between, e.g. 1,0.5") from None
    for number in numbers:
        check_number("--weights", number, AMOUNTS)
    return numbers
