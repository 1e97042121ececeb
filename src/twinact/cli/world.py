"""``twinact nano`` and ``twinact world``: make the embedded model, and what the world can show."""

from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.terminal import say
from twinact.errors import ConfigError
from twinact.outputs import new_folder

nano_app = typer.Typer(help="Make the embedded model.", no_args_is_help=True)
app = typer.Typer(help="Draw from the procedural world.", no_args_is_help=True)


@nano_app.command("train")
def train(
    out: Annotated[Path, typer.Option("--out", help="Run folder; the model comes into its folder 'model'.")],
    parts: Annotated[list[str] | None, typer.Option(help="Train only this part; may be given again.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw pictures.")] = 1,
) -> None:
    """Train nano from the world, from nothing. Stopped runs go on when the command is given again."""
    if not (out / "recipe.json").is_file():
        new_folder(out)
    from twinact.nano.recipe import RECIPE
    from twinact.nano.train import PARTS, train_nano

    for part in parts or ():
        if part not in PARTS:
            raise ConfigError(f"part {part!r} must be one of {', '.join(PARTS)}")
    typer.echo(train_nano(RECIPE, out, tuple(parts or PARTS), workers=workers, report=say))


@app.command("exemplars")
def exemplars(
    out: Annotated[Path, typer.Option("--out", help="Folder for the folders, one per custom action.")],
    size: Annotated[int | None, typer.Option(min=16, max=2048, help="Side in pixels; nano's if not given.")] = None,
) -> None:
    """Draw the exemplar folders of all custom actions, with captions and the true poses."""
    new_folder(out)
    from twinact.nano.recipe import RECIPE
    from twinact.world.splits import CUSTOM_ACTIONS, write_exemplars

    for action in CUSTOM_ACTIONS.values():
        write_exemplars(action, out / action.name, size or RECIPE.image_size, RECIPE.places)
        typer.echo(out / action.name)


@app.command("gallery")
def gallery(
    out: Annotated[Path, typer.Option("--out", help="Folder for the sheets; the page <out>.md shows them.")],
) -> None:
    """Draw contact sheets of actors, phrases and places, and a page with them."""
    from twinact.world.gallery import write_gallery

    typer.echo(write_gallery(out))
