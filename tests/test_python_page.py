"""The Python of docs/python.md, run as it stands, from the keypoints of photographs to pictures."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import twinact

PAGE = Path(__file__).parents[1] / "docs/python.md"
PHOTOGRAPHS = Path(twinact.__file__).parent / "bench/photographs"


def photographs_in(folder: Path, pose: str, count: int = 3) -> None:
    """Keypoints of people, beside pictures of nothing in the place of their photographs."""
    folder.mkdir()
    for number, path in enumerate(sorted((PHOTOGRAPHS / pose).glob("*_keypoints.json"))[:count]):
        shutil.copy(path, folder)
        content = json.loads(path.read_text())
        size = content["canvas_width"], content["canvas_height"]
        Image.new("RGB", size, (100 + number, 100, 100)).save(folder / path.name.replace("_keypoints.json", ".png"))


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    photographs_in(tmp_path / "tree", "tree-palms-overhead-on-the-left-leg")
    photographs_in(tmp_path / "squat", "goddess-palms-at-the-chest")
    found: dict[str, Any] = {}
    first, *rest = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(first.strip().replace("\n\n", "\n").splitlines()) <= 8
    for block in (first.replace('name="tree"', 'name="tree", steps=0'), *rest):  # without the minute of refining
        exec(block.replace("seeds=", "steps=2, seeds="), found)
    size = found["nano"].image_size
    with Image.open("panda.png") as picture:
        assert picture.size == (size, size)
    assert len(found["pictures"]) == 2
    assert found["both"].meta["history"][-1]["parts"]["squat"] == ["left leg", "right leg"]
    assert "%" in capsys.readouterr().out


def test_what_the_package_offers_is_there() -> None:
    for name in ("Action", "ActionSpace", "generate", "learn", "open_model"):
        assert name in dir(twinact) and getattr(twinact, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'lern'"):
        twinact.lern  # noqa: B018
