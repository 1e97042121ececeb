"""Who may ask the page for what."""

import asyncio
import socket
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from commands import refused
from twinact.app.guard import Guard


class Asked:
    """What a guard lets through, and what it answers otherwise."""

    def __init__(self, kept: Path, **options: Any) -> None:
        self.passed: list[str] = []
        hosts = options.pop("hosts", ["127.0.0.1:7860"])
        self._guard = Guard(
            self._page, hosts=hosts, password=options.pop("password", None), kept=kept, most_bytes=1_000_000
        )

    async def _page(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    def __call__(self, path: str, method: str = "GET", **headers: str) -> int:
        answers: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            answers.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        given = {"host": "127.0.0.1:7860", **headers}
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
        scope = {"type": "http", "path": path, "method": method, "headers": pairs}
        asyncio.run(self._guard(scope, receive, send))
        names = dict(answers[0]["headers"])
        assert b"default-src" in names[b"content-security-policy"]
        return int(answers[0]["status"])


class TestGuard:
    @pytest.mark.parametrize("path", ["/", "/config", "/assets/x.js", "/gradio_api/queue/join", "/report/0"])
    def test_the_page_itself_passes(self, tmp_path: Path, path: str) -> None:
        assert Asked(tmp_path)(path) == 200

    def test_no_traversal_reaches_the_page(self, tmp_path: Path) -> None:
        (tmp_path / "kept").mkdir()
        (tmp_path / "secret.txt").write_text("secret")
        (tmp_path / "kept" / "link").symlink_to(tmp_path / "secret.txt")
        ask = Asked(tmp_path / "kept")
        ways = ["../secret.txt", "..\\secret.txt", "x/../../secret.txt", "/etc/passwd", "etc/passwd", "~/.ssh/id_rsa",
                "....//secret.txt", "file:///etc/passwd", "http://example.org/", "link", "a\0b", ".", "",
                str(tmp_path / "secret.txt"), str(tmp_path / "kept" / ".." / "secret.txt"),
                str(tmp_path / "kept" / "link"), "/proc/self/environ"]  # fmt: skip
        routes = ["/gradio_api/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/file=", "/static/../",
                  "/assets/../", "/report/", "/custom_component/", "/gradio_api/stream/", "/runs/", "/monitoring/",
                  "/dev/", "/gradio_api/deep_link?", "/login", "/svelte/../"]  # fmt: skip
        answers = {(route, way): ask(route + way) for route in routes for way in ways}
        assert len(answers) > 200 and set(answers.values()) == {404}
        assert ask.passed == []

    def test_what_the_page_keeps_is_served(self, tmp_path: Path) -> None:
        (tmp_path / "a.webp").write_bytes(b"x")
        assert Asked(tmp_path)(f"/gradio_api/file={tmp_path}/a.webp") == 200

    @pytest.mark.parametrize("headers", [
        {"host": "evil.example"}, {"host": "127.0.0.1:7861"}, {"origin": "http://evil.example"}, {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
    ])  # fmt: skip
    def test_foreign_hosts_and_origins_are_turned_away(self, tmp_path: Path, headers: dict[str, str]) -> None:
        ask = Asked(tmp_path)
        assert ask("/", **headers) == 403 and ask.passed == []
        assert ask("/", origin="http://127.0.0.1:7860") == 200

    def test_no_route_answers_without_the_password(self, tmp_path: Path) -> None:
        ask = Asked(tmp_path, hosts=None, password="opensesame")
        for path in ("/", "/config", "/theme.css", "/gradio_api/upload", f"/gradio_api/file={tmp_path}/a.webp"):
            for given in ({}, {"authorization": "Basic !"}, {"authorization": _basic("a:wrong")},
                          {"authorization": "Bearer opensesame"}):  # fmt: skip
                assert ask(path, host="anything", **given) == 401
        assert ask.passed == []
        assert ask("/", host="anything", authorization=_basic("me:opensesame")) == 200
        with pytest.raises(ValueError, match="needs a password"):
            Asked(tmp_path, hosts=None)

    def test_uploads_are_bounded(self, tmp_path: Path) -> None:
        ask = Asked(tmp_path)
        assert ask("/gradio_api/upload", "POST", content_length="1000") == 200
        assert ask("/gradio_api/upload", "POST", content_length="2000000") == 413
        assert ask("/gradio_api/upload", "POST") == 411
        assert ask("/gradio_api/upload", "POST", content_length="-5") == 411


def _basic(text: str) -> str:
    return f"Basic {b64encode(text.encode()).decode()}"


def test_a_page_that_cannot_be_served_is_told_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "give another --port" in refused("app", "--port", str(taken.getsockname()[1]), code=2)
        free = taken.getsockname()[1]
    monkeypatch.setitem(sys.modules, "gradio", None)  # as where the extra is not installed
    assert "pip install 'twinact[app]'" in refused("app", "--port", str(free))


def test_a_page_for_others_needs_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWINACT_PASSWORD", raising=False)
    assert "set TWINACT_PASSWORD" in refused("app", "--host", "0.0.0.0", code=2)
