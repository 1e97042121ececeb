"""``twinact app``: the web page."""

import os
from pathlib import Path
from typing import Annotated

import typer

from twinact.cli.options import Model
from twinact.console import say


def app(
    folder: Annotated[
        Path,
        typer.Option("--folder", help="Folder for exemplars, runs and actions, and where commands are to be given."),
    ] = Path("."),
    model: Model = "nano",
    host: Annotated[
        str, typer.Option(help="Address to serve on; others than this machine's own need TWINACT_PASSWORD.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Port to serve on.")] = 7860,
) -> None:
    """Serve a page to learn, draw and mix actions in a browser. On this machine alone; runs go on when it is closed."""
    say("preparing the page")
    from twinact.app.server import PASSWORD_VARIABLE, serve

    serve(folder, model, port, host, os.environ.get(PASSWORD_VARIABLE) or None, say)
