"""``twinact space``: build and look at action spaces."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinact.cli.options import SCHEMA_VERSION, AsJson, Model, open_model, with_suffix
from twinact.cli.outputs import new_file
from twinact.configs import ORDERINGS
from twinact.configs.settings import check_choice
from twinact.console import progress, say
from twinact.errors import ConfigError, DataError
from twinact.storage import SPACE_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinact.backbones.backbone import Backbone, TokenTable
    from twinact.intent.head_training import Lessons
    from twinact.space import ActionSpace
    from twinact.space.pose_table import PoseTable

_MAX_PHRASES_BYTES = 10_000_000
_SHARES = (0.5, 0.9, 0.99)
_RANKS = (4, 8, 16, 32, 64, 128, 256, 512)  # of the table that `build` tells
_LEAST = 5  # phrases whose poses the model is least sure of

app = typer.Typer(help="Build and look at action spaces.", no_args_is_help=True)


@app.command("build")
def build(
    out: Annotated[Path, typer.Option("--out", help="File to write; ends in .space.safetensors.")],
    model: Model = "nano",
    phrases: Annotated[
        Path | None,
        typer.Option("--phrases", help="Text file: lines '# Heading', below each of them one phrase a line."),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, max=16, help="Token vectors per action.")] = 3,
    rank: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Components to keep in every slot; all if not given.")
    ] = None,
    ordering: Annotated[
        str,
        typer.Option(
            help="Which components come first: by the phrases' 'variance', by that 'outside' of the directions of "
            "words that are no actions, or by the 'contrast' to these."
        ),
    ] = "variance",
    poses: Annotated[bool, typer.Option(help="Look at how the model draws every phrase, and keep the poses.")] = True,
    reader: Annotated[
        str,
        typer.Option(
            help="Who looks: 'own', the network in the model's folder, or 'vitpose', for any model: first it is "
            "measured how soon the model shows its pose."
        ),
    ] = "own",
    weights: Annotated[str | None, typer.Option(help="Name or folder of ViTPose's network.")] = None,
    drawings: Annotated[int, typer.Option(min=1, max=1000, help="Drawings of each phrase that are looked at.")] = 8,
    head: Annotated[
        bool | None,
        typer.Option(
            "--head/--no-head",
            help="Teach a small network to read the poses off the model's own features, so that learning decodes "
            "nothing; it is kept if it reads as the reader does. Without --head, only for readers other than 'own'.",
        ),
    ] = None,
) -> None:
    """Build the space that action phrases span in a model's token embeddings."""
    check_choice("--ordering", ordering, ORDERINGS)
    check_choice("--reader", reader, ("own", "vitpose"))
    if ordering != ORDERINGS[0] and rank is not None:
        raise ConfigError("--rank keeps components by their variance; with another --ordering, give --rank to 'learn'")
    if head and not poses:
        raise ConfigError(
            "--head is taught by the poses of the phrases, and --no-poses leaves these out; leave one out"
        )
    target = new_file(with_suffix(out, SPACE_SUFFIX))
    texts = None if phrases is None else _read_phrases(phrases)
    say(f"opening model {model}")
    from twinact.backbones import load_words, measured_steps
    from twinact.space.build import build_space

    words = load_words(model)
    space = _ordered(build_space(words, rank, slots=slots, phrases=texts), words.token_tables(), ordering)
    if poses and (reader == "vitpose" or measured_steps(model) is not None):
        taught = reader != "own" if head is None else head
        space = _with_poses(space, model, reader, weights, drawings, taught)
    elif poses:
        say(
            "this model has not been measured for the pose that it means, so the space gets no pose table; "
            "--reader vitpose measures it"
        )
    space.save(target, new=True)
    typer.echo(target)
    say(f"look at it: twinact space show {shlex.quote(str(target))}")


def _ordered(space: "ActionSpace", tables: "Sequence[TokenTable]", ordering: str) -> "ActionSpace":
    """The space in an order of its components; tells how much its first components let in."""
    from twinact.space.ordering import energy_let_in, reordered, shipped_words

    words = shipped_words(tables)
    if not words and ordering == ORDERINGS[0]:
        say("this model spells all words that are no actions in pieces: what the space lets in of them is not known")
        return space
    space = reordered(space, tables, words, ordering)
    kept, others = energy_let_in(space, tables, words)
    say(f"components of a slot: phrases' variance kept, energy of {len(words)} words that are no actions let in")
    for rank in (*(rank for rank in _RANKS if rank < space.rank), space.rank):
        say(f"{rank:>6}  {kept[:, rank - 1].mean():5.0%}  {others[:, rank - 1].mean():5.0%}")
    return space


def _with_poses(
    space: "ActionSpace", model: str, reader: str, weights: str | None, drawings: int, head: bool
) -> "ActionSpace":
    from twinact.intent import EarlyPose
    from twinact.intent.eyes import open_eyes
    from twinact.intent.head_training import Lessons
    from twinact.intent.measure import ENOUGH, measure_intent
    from twinact.intent.pose_table import pose_table
    from twinact.space.pose_table import OWN
    from twinact.space.slot_shares import slot_shares

    backbone = open_model(model)
    shares = slot_shares(backbone, space)
    if shares is not None:
        told = ", ".join(f"{share:.0%}" for share in shares.tolist())
        say(f"what phrases mean to the text encoders hangs on their slots, first to last: {told}")
    name, steps = OWN, backbone.intent_steps
    if reader != OWN:
        from twinact.readers.vitpose import WEIGHTS

        name = weights or WEIGHTS
    eyes = open_eyes(name, backbone)
    if eyes is None:
        return space
    if reader != OWN:
        with progress("looking when the model shows its pose") as advance:
            measured = measure_intent(backbone, eyes, space.phrases, progress=advance)
        told = ", ".join(f"{value:.2f} after {count}" for count, value in measured.correlations.items())
        say(f"correlation of the early pose with the finished drawing's, by steps of 25: {told}")
        if measured.steps is None:
            say(f"none is {ENOUGH:g} or more, so the space gets no pose table and actions are learned by denoising")
            return space
        steps = measured.steps
    assert steps is not None
    lessons = Lessons(eyes, steps) if head else None
    intent = lessons or EarlyPose(eyes, steps)
    with progress("looking at the phrases") as advance:
        table = pose_table(backbone, intent, space.phrases, drawings=drawings, reader=name, progress=advance)
    return replace(space, poses=table if lessons is None else _with_head(table, backbone, lessons, space.phrases))


def _with_head(table: "PoseTable", backbone: "Backbone", lessons: "Lessons", phrases: "Sequence[str]") -> "PoseTable":
    """The table with a head, if one reads well enough; tells how well it does."""
    from twinact.intent.head_training import train_head
    from twinact.intent.measure import ENOUGH
    from twinact.intent.pose_table import plan

    said = plan(phrases, table.drawings, backbone.latent_shape).said
    with progress("teaching the head") as advance:
        taught = train_head(backbone, lessons, said, progress=advance)
    if taught is None:
        say("too few drawings to measure a head: there is none, and learning reads poses as this command did")
        return table
    value, kept = taught.head.correlation, taught.head.correlation >= ENOUGH
    verdict = (
        "it is kept" if kept else f"that is below {ENOUGH:g}: it is not kept, and learning reads as this command did"
    )
    say(
        f"head on the model's features, taught by {taught.drawings} drawings: correlation {value:.3f} with the reader "
        f"in {taught.held_out} drawings of phrases that it was not taught; {verdict}"
    )
    return replace(table, head=taught.head) if kept else table


@app.command("show")
def show(
    space_file: Annotated[Path, typer.Argument(metavar="SPACE", help="A .space.safetensors file.")],
    phrase: Annotated[str | None, typer.Option(help="A phrase of the space; shows what is near it.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for scree.png and map.png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a space holds: variance per slot, ranks, the phrases nearest to one."""
    targets = [] if plots is None else [new_file(plots / name) for name in ("scree.png", "map.png")]
    say(f"reading {space_file}")
    from twinact.space import ActionSpace

    space = ActionSpace.load(space_file)
    near = []
    if phrase is not None:
        coefficients, mask = space.project_phrase(phrase)
        near = space.nearest(coefficients, 10, mask)
    if targets:
        from twinact.phrases import headings
        from twinact.report.plots import map_png, scree_png
        from twinact.storage import write_all_new

        write_all_new({targets[0]: scree_png(space), targets[1]: map_png(space, headings())})
        say(f"wrote {targets[0]} and {targets[1]}")
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": space.model_id,
        "hash": space.hash,
        "phrases": len(space.phrases),
        "slots": space.slots,
        "rank": space.rank,
        "poses": None if space.poses is None else _pose_facts(space, space.poses),
        "per_slot": [_slot_facts(space, slot) for slot in range(space.slots)],
        "nearest": [{"phrase": text, "similarity": round(similarity, 4)} for text, similarity in near],
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"model    {space.model_id}\nphrases  {len(space.phrases)}\nrank     {space.rank}")
    if facts["poses"] is not None:
        told = ", ".join(f"{one['phrase']} ({one['agreement']:.2f})" for one in facts["poses"]["least sure"])
        typer.echo(f"poses    {facts['poses']['drawings']} drawings of each phrase; least sure: {told}")
        if facts["poses"]["head"] is not None:
            typer.echo(f"head     reads them off the model's features; correlation {facts['poses']['head']:.2f}")
    held = "  ".join(f"{share:>5.0%}" for share in _SHARES)
    typer.echo(f"\nslot  distinct  rank  components that hold {held} of the variance")
    for row in facts["per_slot"]:
        counts = "  ".join(f"{row['components_for'][f'{share:g}'] or '-':>5}" for share in _SHARES)
        typer.echo(f"{row['slot']:>4}  {row['distinct']:>8}  {row['rank']:>4}  {'':20} {counts}")
    if near:
        typer.echo(f"\nnearest to {phrase!r}")
        for text, similarity in near:
            typer.echo(f"  {similarity:6.2f}  {text}")


def _read_phrases(path: Path) -> list[str]:
    from twinact.phrases import parse_phrases
    from twinact.storage import read_file

    try:
        text = read_file(path, _MAX_PHRASES_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"phrase list '{path}' is not UTF-8 text ({error}); save it as UTF-8") from error
    return [phrase.text for phrase in parse_phrases(text, str(path))]


def _pose_facts(space: "ActionSpace", poses: "PoseTable") -> dict[str, Any]:
    order = poses.score.argsort()[:_LEAST].tolist()
    least = [{"phrase": space.phrases[i], "agreement": round(float(poses.score[i]), 3)} for i in order]
    return {
        "drawings": poses.drawings,
        "agreement": round(float(poses.score.mean()), 3),
        "head": None if poses.head is None else round(poses.head.correlation, 3),
        "least sure": least,
    }


def _slot_facts(space: "ActionSpace", slot: int) -> dict[str, Any]:
    held = space.explained_variance(slot).tolist()
    enough = {f"{s:g}": next((i for i, h in enumerate(held, 1) if h >= s - 1e-6), None) for s in _SHARES}
    return {
        "slot": slot,
        "distinct": space.distinct[slot],
        "rank": space.slot_ranks[slot],
        "variance_held": round(held[-1], 6),
        "components_for": enough,
    }
