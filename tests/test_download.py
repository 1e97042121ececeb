"""Models on the hub: what is said when one cannot be had, and one that the hub's cache holds."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
from diffusers import StableDiffusionPipeline
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from typer.testing import CliRunner

from twinact.backbones import load
from twinact.cli import app
from twinact.errors import DataError

COMMIT = "0" * 40
UNREACHABLE = "is neither a folder here nor reachable on the Hugging Face hub (%s): check the name and the connection"


@pytest.fixture
def snapshot(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a tiny Stable Diffusion in a cache of the hub, which itself is out of reach."""
    home = tmp_path / "models--some--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    shutil.copytree(model, home / "snapshots" / COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return home / "snapshots" / COMMIT


def listed(snapshot: Path, *more: str) -> None:
    """Writes the list of the hub's files: those that are here, and more."""
    here = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()]
    files = {name: {"size": 1, "blob_id": "0"} for name in (*here, *more)}
    tree = snapshot.parents[1] / "trees" / f"{COMMIT}.json"
    tree.parent.mkdir()
    tree.write_text(json.dumps({"format_version": 1, "files": files}))


def raising(error: Exception) -> Callable[..., None]:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    return fail


def test_cached_model_opens_without_the_hub(snapshot: Path) -> None:
    assert load("some/tiny", "cpu").model_id == f"some/tiny@{load(snapshot).model_id.rpartition('@')[2]}"


def test_the_hub_shows_its_progress(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = []

    def download(*args: Any, **options: Any) -> Path:
        hidden.append(huggingface_hub.utils.are_progress_bars_disabled())
        return snapshot

    monkeypatch.setattr(StableDiffusionPipeline, "download", download)
    load("some/tiny", "cpu")
    assert hidden == [False]


def test_parts_that_are_never_used_are_not_fetched(snapshot: Path) -> None:
    parts = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    }
    index = snapshot / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | parts))
    listed(snapshot, *(f"{part}/{file}" for part in parts for file in ("config.json", "model.safetensors")))
    assert load("some/tiny", "cpu").model_id.startswith("some/tiny@")  # or they would be missing


def test_missing_part_is_told(snapshot: Path) -> None:
    listed(snapshot)
    (snapshot / "text_encoder/model.safetensors").unlink()
    with pytest.raises(DataError, match="neither a folder here nor reachable"):
        load("some/tiny")


def test_pickles_alone_are_refused(snapshot: Path) -> None:
    for path in snapshot.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    listed(snapshot)
    with pytest.raises(DataError, match="'some/tiny' offers no safetensors: choose a copy of it that does"):
        load("some/tiny")


@pytest.mark.parametrize("place", ["index", "weights"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "full"), "does not fit into '%s': free some space, or set HF_HOME to a larger disk"),
        (OSError(errno.EDQUOT, "full"), "does not fit into '%s': free some space, or set HF_HOME to a larger disk"),
        (RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"), "does not fit into '%s': free some"),
        (PermissionError(errno.EACCES, "no"), "cannot be kept in '%s': set HF_HOME to a folder that can be"),
        (OSError(errno.EROFS, "no"), "cannot be kept in '%s': set HF_HOME to a folder that can be written"),
        (EntryNotFoundError("404"), "is not in diffusers layout (it has no model_index.json): choose a copy"),
        (LocalEntryNotFoundError("not cached"), UNREACHABLE % "not cached"),
        (httpx2.ReadTimeout("slow"), UNREACHABLE % "slow"),
        (httpx2.ConnectError(""), UNREACHABLE % "ConnectError"),
        (RuntimeError("CAS service error\nat xet.rs"), UNREACHABLE % "CAS service error"),
        (ValueError("bad name"), UNREACHABLE % "bad name"),
    ],
    ids=lambda value: f"{type(value).__name__} {value}" if isinstance(value, Exception) else "",
)  # fmt: skip
def test_failed_download_is_one_line(
    place: str, error: Exception, told: str, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "index":
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    else:
        monkeypatch.setattr(StableDiffusionPipeline, "download", raising(error))
    result = CliRunner().invoke(app, ["space", "build", "--model", "some/tiny", "--out", str(snapshot / "new")])
    cache = str(snapshot.parents[2])
    expected = f"error: model 'some/tiny' {told % cache if '%s' in told else told}"
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    assert result.exit_code == (3 if full else 1) and result.stdout == ""
    *before, line = result.stderr.splitlines()
    assert line.startswith(expected) and all(text.startswith("opening model") for text in before)
