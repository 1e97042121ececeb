"""`twinact push` and `pull` through the real client of the hub, to a server on this machine that stands in for it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import yaml
from PIL import Image

from commands import content, done, invoke
from small import exemplars_in
from twinact.action import Action
from twinact.export.personal import personal
from twinact.space import ActionSpace

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories of models: made, written in one commit, listed and read."""

    files: ClassVar[dict[str, dict[str, bytes]]] = {}
    refuse: ClassVar[int | None] = None

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, value: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Length": str(len(data)), "X-Repo-Commit": COMMIT, **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        address = f"http://{self.headers['Host']}"
        if self.refuse:
            self.answer({"error": "not yours"}, self.refuse)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.files.setdefault(name, {})
            self.answer({"url": f"{address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self.answer(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
            )
        else:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        name = "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2])
        if name not in self.files:
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in path:
            rows = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in self.files[name].items()
            ]
            self.answer(rows)
        elif path.startswith("/api/"):
            siblings = [{"rfilename": file} for file in self.files[name]]
            self.answer({"id": name, "sha": COMMIT, "siblings": siblings, "private": False})
        else:
            data = self.files[name][path.partition("/resolve/")[2].partition("/")[2]]
            self.answer(data, headers={"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    do_HEAD = do_GET  # noqa: N815 - http.server asks for it


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """The server, to which the client talks."""
    monkeypatch.setattr(Hub, "files", {})
    monkeypatch.setattr(Hub, "refuse", None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    constants = huggingface_hub.constants
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", address)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    monkeypatch.chdir(tmp_path)
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def learned(model: Path, hub: type[Hub], tmp_path: Path) -> Path:
    exemplars_in(tmp_path / "leap")
    (tmp_path / "leap" / "0.txt").write_text("grandma <act>")
    result = done("learn", "leap", "--model", model, "--steps", "1", "--start", "jumping", "--preview-every", "0")
    return Path(result.stdout.strip())


def told(*arguments: str | Path, code: int = 1) -> str:
    """The last line on stderr of a command that ends with a code."""
    result = invoke(*arguments)
    assert result.exit_code == code and result.stdout == "", result.stderr
    return result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_what_is_pushed_can_be_pulled(learned: Path, model: Path, hub: type[Hub], tmp_path: Path) -> None:
    (picture,) = done("generate", learned, "--model", model, "--prompt", "a robot <act>", "--steps", "1").stdout.split()
    command = ("push", learned, "anna/leap", "--exemplar-licence", "my own photographs, with consent", "--model", model,
               "--picture", picture, "--licence", "cc-by-4.0")  # fmt: skip
    card = done(*command, "--dry-run").stdout
    assert not hub.files
    assert done(*command).stdout.endswith(f"/anna/leap/commit/{COMMIT}\n")
    sent = hub.files["anna/leap"]
    assert sorted(sent) == [
        "README.md", "leap.action.safetensors", "phrases.space.safetensors", "pictures/01.png",
    ]  # fmt: skip
    assert sent["README.md"].decode().strip() == card.strip()
    assert not any(b"grandma" in data or str(tmp_path).encode() in data for data in sent.values())

    (pulled,) = done("pull", "anna/leap", "--out", "taken").stdout.split()
    back, before = Action.load(pulled), Action.load(learned)
    assert back.vectors[0].equal(before.vectors[0]) and back.meta["config"] == before.meta["config"]
    assert personal(Path(pulled)) == []
    assert ActionSpace.load("taken/phrases.space.safetensors").hash == back.space_hash
    done("explain", pulled, "--model", model)  # it finds its space
    before_again = content(tmp_path / "taken")
    assert "is not empty" in told("pull", "anna/leap", "--out", "taken")
    assert content(tmp_path / "taken") == before_again


def test_the_card_says_what_people_ask(learned: Path, model: Path, hub: type[Hub]) -> None:
    Image.new("RGB", (32, 32)).save("a.png")
    card = done("push", learned, "anna/leap", "--exemplar-licence", "my own", "--model", model, "--picture", "a.png",
                "--dry-run").stdout  # fmt: skip
    _, head, text = card.split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["pipeline_tag"] == "text-to-image" and facts["license"] == "other"
    assert {"twinact", "stable-diffusion-v1"} <= set(facts["tags"])
    for line in (
        "![Drawn with the action](pictures/01.png)",
        "| steps | 1 |",
        "| exemplars | 3 |",
        "Exemplars: my own.",
        "| nearest phrases | ",
        "## Intended use",
        "twinact pull anna/leap --out leap",
    ):
        assert line in text, line


@pytest.mark.slow
def test_what_goes_wrong_is_one_line(
    learned: Path, model: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("push", learned, "anna/leap", "--model", model, "--exemplar-licence")
    assert "under which licence" in told(*command, " ", code=2)
    assert "must be owner/name" in told("push", learned, "leap", "--model", model, "--exemplar-licence", "x", code=2)
    assert "give --model its model" in told("push", learned, "anna/leap", "--exemplar-licence", "x")
    assert "log in with 'hf auth login'" in told("pull", "nobody/nothing", "--out", "x")
    hub.files["anna/empty"] = {"README.md": b"# empty"}
    assert "holds no action" in told("pull", "anna/empty", "--out", "x")
    hub.files["anna/bad"] = {"leap.action.safetensors": b"damaged"}
    assert "is not a safetensors file" in told("pull", "anna/bad", "--out", "x")
    monkeypatch.setattr(Hub, "refuse", 403)
    assert "as somebody who may write" in told(*command, "mine")
    assert not Path("x").exists() or not list(Path("x").iterdir())
