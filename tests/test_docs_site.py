"""The documents as a site: every link leads somewhere, the API is told from the code, and no other host is asked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from twinact.action import Action
from twinact.backbones.shipped import model_dir
from twinact.space.action_space import FORMAT_VERSION as SPACE_VERSION
from twinact.space.build import SPACE_FILE
from twinact.space.stored_action import FORMAT_VERSION
from twinact.storage import read_safetensors

ROOT = Path(__file__).parents[1]
# What a browser fetches by itself; links that a reader follows are not among it.
FETCHED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr  # also when a link leads nowhere
    return folder


def test_the_first_page_is_the_readme(site: Path) -> None:
    first = (site / "index.html").read_text(encoding="utf-8")
    assert "common action space" in first and 'href="command_line/"' in first


def test_the_api_is_told_from_the_code(site: Path) -> None:
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    named = re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(named) > 20
    for name in named:
        assert f'id="{name}"' in page, name
    assert "Gives a new action" in page or "The action moved along one component" in page  # a docstring


def test_no_other_host_is_asked(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert not FETCHED.findall(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_formats_are_as_they_are_told() -> None:
    page = (ROOT / "docs/file_formats.md").read_text(encoding="utf-8")
    tensors, header = read_safetensors(model_dir() / SPACE_FILE, "space", SPACE_VERSION)
    told = set(re.findall(r"`([\w.]+)`", page))
    assert tensors.keys() | header.keys() <= told
    assert f"Kind `action`, version {FORMAT_VERSION}." in page and f"Kind `space`, version {SPACE_VERSION};" in page
    assert {field for field in Action.__dataclass_fields__ if field not in ("vectors", "lora")} <= told
