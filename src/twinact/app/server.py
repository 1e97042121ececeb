"""Serves the page: on this machine alone unless a host and a password are given."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from twinact.app.exemplars import MAX_BYTES, MAX_FILE_BYTES
from twinact.app.folder import WorkFolder
from twinact.app.guard import Guard
from twinact.app.runs import Runs
from twinact.app.studio import Studio
from twinact.errors import ConfigError, MissingDependency

PASSWORD_VARIABLE = "TWINACT_PASSWORD"
_REPORT_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host's name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, port: int, password: str | None) -> None:
    """Refuse a page that other machines reach without a password, or that cannot be served.

    Raises:
        ConfigError: The host is not loopback and there is no password of 8 letters or more, or the address cannot be
            taken.
    """
    if not is_loopback(host) and len(password or "") < 8:
        raise ConfigError(
            f"host {host!r} lets other machines use the page: set {PASSWORD_VARIABLE} to a password of 8 letters or "
            "more, or leave --host out"
        )
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(*kind[:2]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(kind[4])
    except OSError as error:
        raise ConfigError(
            f"the page cannot be served on {host} port {port}: {error.strerror or error}; give another --port"
        ) from error


@contextmanager
def page_server(
    root: Path, model: str, port: int, host: str = "127.0.0.1", password: str | None = None
) -> Iterator[Guard]:
    """The page as an ASGI server; what is uploaded and drawn is deleted when the context ends.

    Args:
        root: Folder that it works in; made if missing.
        model: As ``--model`` takes it.
        port: That it is served on.
        host: Name or address that it is served on.
        password: Asked for on every route; needed unless the host is loopback.

    Raises:
        ConfigError: As `check_address`.
        TwinactError: The model cannot be opened.
        MissingDependency: The extra ``app`` is not installed.
    """
    check_address(host, port, password)
    with tempfile.TemporaryDirectory(prefix="twinact-page-") as kept:
        # Read when gradio is imported: where it keeps files, and that it tells nobody.
        os.environ.update(GRADIO_TEMP_DIR=kept, GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False")
        try:
            import gradio
            from fastapi import FastAPI
            from fastapi.responses import FileResponse, PlainTextResponse, Response
        except ImportError as error:
            raise MissingDependency(
                f"the page needs {error.name}, which is not installed: pip install 'twinact[app]'"
            ) from error
        from twinact.app import page as whole
        from twinact.app.tabs.common import Page

        if model != "nano" and Path(model).is_dir():
            model = str(Path(model).resolve())  # commands are given in the page's folder
        root.mkdir(parents=True, exist_ok=True)
        folder = WorkFolder(root.resolve())
        studio, runs = Studio(folder, model), Runs(folder, model)
        _ = studio.space  # a model that cannot be opened is told before anybody looks
        page = Page(folder, studio, runs, Path(tempfile.mkdtemp(dir=kept)))
        server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

        @server.get("/report/{number}")
        def report(number: int) -> Response:
            reports = list(folder.reports().values())
            if not 0 <= number < len(reports):
                return PlainTextResponse("there is no such report", status_code=404)
            return FileResponse(
                reports[number], media_type="text/html", headers={"content-security-policy": _REPORT_POLICY}
            )

        gradio.mount_gradio_app(
            server,
            whole.build(page),
            "/",
            server_name=host,
            server_port=port,
            footer_links=[],
            run_history=False,
            show_error=True,
            ssr_mode=False,
            pwa=False,
            max_file_size=MAX_FILE_BYTES,
            theme=whole.theme(),
            css=whole.style(),
        )
        own = (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}") if is_loopback(host) else None
        # A form around the files adds a little to them.
        guard = Guard(server, hosts=own, password=password, kept=Path(kept), most_bytes=MAX_BYTES + 1_000_000)
        with runs.tended():
            yield guard


def serve(root: Path, model: str, port: int, host: str, password: str | None, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C, and tell where it is; other arguments and errors as `page_server`."""
    with page_server(root, model, port, host, password) as guard:
        import uvicorn

        shown = f"[{host}]" if ":" in host else host
        tell(f"the page is on http://{shown}:{port} (Ctrl-C closes it; runs go on)")
        uvicorn.run(guard, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=2)
