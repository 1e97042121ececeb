"""``twinact export`` and ``import``: embedding files of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.terminal import Model, open_model, with_suffix
from twinact.outputs import new_file
from twinact.terminal import say

_SUFFIX = ".action.safetensors"


def export(
    action_file: Annotated[Path, typer.Argument(metavar="ACTION", help="An .action.safetensors file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("exports"),
    model: Model = "nano",
) -> None:
    """Write an action as embedding files for A1111, Forge, ComfyUI and diffusers. Its name is the word to type."""
    from twinact.action import Action
    from twinact.backbones import family
    from twinact.export import export_embedding

    action = Action.load(action_file)
    kind = family(model)
    new_file(out / f"{action.name}.safetensors")
    for path in export_embedding(action, kind, out):
        typer.echo(path)
    say(f"type: {action.name} (A1111, Forge), embedding:{action.name} (ComfyUI)")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An embedding in safetensors.")],
    name: Annotated[str, typer.Option(help="Of the action.")],
    out: Annotated[Path, typer.Option("--out", help="File of the action.")],
    model: Model = "nano",
) -> None:
    """Read an embedding of another tool as an action. It lies in no action space and cannot be moved."""
    target = new_file(with_suffix(out, _SUFFIX))
    from twinact.backbones import family
    from twinact.export import import_embedding

    backbone = open_model(model)
    widths = [table.width for table in backbone.token_tables()]
    action = import_embedding(file, family(model), name=name, model_id=backbone.model_id, widths=widths)
    typer.echo(action.save(target))
