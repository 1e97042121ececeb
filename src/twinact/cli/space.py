"""``twinact space``: build and look at action spaces."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinact.cli.terminal import SCHEMA_VERSION, AsJson, Model, open_model, with_suffix
from twinact.errors import DataError
from twinact.outputs import new_file
from twinact.terminal import say

if TYPE_CHECKING:
    from twinact.space import ActionSpace

_SUFFIX = ".space.safetensors"
_SHARES = (0.5, 0.9, 0.99)

app = typer.Typer(help="Build and look at action spaces.", no_args_is_help=True)


@app.command("build")
def build(
    out: Annotated[Path, typer.Option("--out", help="File to write; ends in .space.safetensors.")],
    model: Model = "nano",
    phrases: Annotated[
        Path | None, typer.Option("--phrases", help="'# Heading' lines, each followed by a phrase a line.")
    ] = None,
    slots: Annotated[int, typer.Option(help="Token vectors per action.")] = 3,
    rank: Annotated[int | None, typer.Option(help="Components to keep in every slot; all if not given.")] = None,
) -> None:
    """Build the space that action phrases span in a model's token embeddings."""
    target = new_file(with_suffix(out, _SUFFIX))
    texts = None if phrases is None else _read_phrases(phrases)
    from twinact.workflow import build_space

    backbone = open_model(model, device="cpu")
    build_space(backbone, rank, slots=slots, phrases=texts).save(target)
    typer.echo(target)
    say(f"look at it: twinact space show {shlex.quote(str(target))}")


@app.command("show")
def show(
    space_file: Annotated[Path, typer.Argument(metavar="SPACE", help="A .space.safetensors file.")],
    phrase: Annotated[str | None, typer.Option(help="A phrase of the space; shows what is near it.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for scree.png and map.png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a space holds: variance per slot, ranks, the phrases nearest to one."""
    targets = [] if plots is None else [new_file(plots / name) for name in ("scree.png", "map.png")]
    from twinact.space import ActionSpace

    space = ActionSpace.load(space_file)
    near = []
    if phrase is not None:
        coefficients, mask = space.project_phrase(phrase)
        near = space.nearest(coefficients, 10, mask)
    if targets:
        from twinact.files import atomic_write_bytes
        from twinact.phrases import load_phrases
        from twinact.plots import map_png, scree_png

        headings = {entry.text: entry.heading for entry in load_phrases()}
        atomic_write_bytes(targets[0], scree_png(space))
        atomic_write_bytes(targets[1], map_png(space, {text: headings.get(text, "other") for text in space.phrases}))
        say(f"wrote {targets[0]} and {targets[1]}")
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": space.model_id,
        "hash": space.hash,
        "phrases": len(space.phrases),
        "slots": space.slots,
        "rank": space.rank,
        "per_slot": [_slot_facts(space, slot) for slot in range(space.slots)],
        "nearest": [{"phrase": text, "similarity": round(similarity, 4)} for text, similarity in near],
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"model    {space.model_id}\nphrases  {len(space.phrases)}\nrank     {space.rank}")
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

    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"phrase list '{path}' is not UTF-8 text ({error}); save it as UTF-8") from error
    return [phrase.text for phrase in parse_phrases(text, str(path))]


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
