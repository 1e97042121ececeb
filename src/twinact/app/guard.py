"""Stands before the page: turns away foreign hosts and origins, unknown routes, large uploads and missing passwords."""

import base64
import binascii
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Server = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_KEPT_BYTES = 2_000_000_000
"""Of uploads and pictures that the page keeps until it is closed."""
# What the page asks for; gradio has further routes, which nobody needs here.
_ROUTES = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static|svelte)/.+|report/\d+"
    r"|gradio_api/(info|queue/(join|data)|upload|upload_progress|file=.+|heartbeat/.+|startup-events|cancel|reset"
    r"|component_server)/?)"
)
_FILE, _UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
_HEADERS = (
    # Gradio's own code needs inline styles and scripts; nothing is loaded from anywhere else.
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; base-uri 'self'; "
        b"form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """An ASGI server that passes on what a browser of this page asks for, and refuses everything else.

    Args:
        server: The page.
        hosts: What the Host header may say, with port; None allows any, for which `password` is then needed.
        password: Asked for by HTTP Basic with any user name, on every route; None asks for none.
        kept: Folder of uploads and drawn pictures; files are served from there alone.
        most_bytes: Of one upload.
    """

    def __init__(
        self, server: Server, *, hosts: Iterable[str] | None, password: str | None, kept: Path, most_bytes: int
    ) -> None:
        if hosts is None and not password:
            raise ValueError("a page that other machines reach needs a password")
        self._server = server
        self._hosts = None if hosts is None else frozenset(hosts)
        self._password, self._kept, self._most_bytes = password, kept.resolve(), most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._server(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message.get("headers", [])}
                added = [pair for pair in _HEADERS if pair[0] not in own]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self._server(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason; None for what may pass."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and host not in self._hosts:
            return 403, "this page is not for that host"
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "other pages may not use this one"
        if self._password is not None and not _knows(headers.get("authorization", ""), self._password):
            return 401, "this page asks for its password"
        path: str = scope["path"]
        if ".." in path or "\\" in path or "\0" in path or not _ROUTES.fullmatch(path):
            return 404, "there is nothing here"
        if path.startswith(_FILE) and not self._keeps(path.removeprefix(_FILE)):
            return 404, "there is nothing here"
        if scope["method"] == "POST":
            length = headers.get("content-length", "")
            if not (length.isascii() and length.isdigit()):
                return 411, "say how long it is"
            if int(length) > self._most_bytes:
                return 413, f"at most {self._most_bytes // 10**6} MB are taken at once"
            if path.startswith(_UPLOAD) and _size(self._kept) + int(length) > MOST_KEPT_BYTES:
                return 507, "there is no more room for uploads; close the page's server and start it again"
        return None

    def _keeps(self, name: str) -> bool:
        """Whether a file lies among the uploads and pictures, links followed."""
        return Path(os.path.realpath(name)).is_relative_to(self._kept)


def _knows(authorization: str, password: str) -> bool:
    kind, _, token = authorization.partition(" ")
    try:
        given = base64.b64decode(token, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return kind.lower() == "basic" and secrets.compare_digest(given, password.encode())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="twinact", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
