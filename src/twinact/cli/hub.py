"""``twinact push`` and ``pull``: actions on the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.options import Model
from twinact.cli.outputs import new_folder
from twinact.console import say

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face hub.")]


def push(
    action_file: Annotated[Path, typer.Argument(metavar="ACTION", help="An .action.safetensors file.")],
    repository: Repository,
    exemplar_licence: Annotated[
        str, typer.Option(help="Under which terms the exemplars were used, such as 'my own photographs'.")
    ],
    picture: Annotated[
        list[Path] | None, typer.Option(help="A drawn picture that the card shows; may be given again.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the action, as the hub calls it.")] = "other",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    model: Model = "nano",
    show: Annotated[bool, typer.Option("--dry-run", help="Print the model card, and send nothing.")] = False,
) -> None:
    """Offer an action to others, with its space and a model card. Captions, hashes and texts in pictures stay here."""
    say(f"reading {action_file}")
    from twinact.action import Action
    from twinact.export import Base
    from twinact.export.hub import Offer, contents
    from twinact.export.hub import push as send
    from twinact.space.build import space_beside

    action, space = Action.load(action_file), None
    base = Base.of_action(action, model)
    if action.coefficients is not None:
        space = space_beside(action_file, action.space_hash)
        if space is None:
            say("note: its space is not beside it, so others can draw it and not move it")
    offer = Offer(
        action=action,
        space=space,
        base=base,
        pictures=picture or (),
        exemplar_licence=exemplar_licence,
        licence=licence,
    )
    if show:
        typer.echo(contents(offer, repository)["README.md"].decode())
        return
    say(f"sending to {repository}")
    typer.echo(send(offer, repository, private=private))


def pull(
    repository: Repository,
    out: Annotated[Path, typer.Option("--out", help="New or empty folder for the files.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; the newest if not given.")] = None,
) -> None:
    """Take an action that somebody has pushed, with its space."""
    folder = new_folder(out)
    say(f"fetching {repository}")
    from twinact.export.hub import pull as take

    for path in take(repository, folder, revision):
        typer.echo(path)
