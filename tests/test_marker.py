"""Folders that go on with the settings that they were begun with, and no others."""

from dataclasses import replace
from pathlib import Path

import pytest

from twinact.errors import ConfigError, DataError
from twinact.runs.marker import Marker

MARKER = Marker("demo.json", "demo")


def test_a_folder_goes_on_with_the_settings_it_was_begun_with(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert MARKER.read(folder) is None
    settings = {"steps": 2, "sizes": (1, 2), "text": {"rate": 0.1, "batch": 8}}
    MARKER.begin(folder, settings)
    written = (folder / "demo.json").read_bytes()
    (folder / "picture.png").write_bytes(b"ours")
    assert MARKER.begin(folder, settings)["settings"] == {**settings, "sizes": [1, 2]}
    with pytest.raises(ConfigError) as refused:
        MARKER.begin(folder, {**settings, "text": {"rate": 0.2, "batch": 8}, "seed": 1})
    assert "seed (None there, 1 now), text.rate (0.1 there, 0.2 now); give another folder" in str(refused.value)
    assert (folder / "demo.json").read_bytes() == written


def test_a_folder_of_an_earlier_release_has_what_was_not_a_setting_then(tmp_path: Path) -> None:
    MARKER.begin(tmp_path, {"steps": 2})
    later = replace(MARKER, earlier={"layers": "attention"})
    assert later.begin(tmp_path, {"steps": 2, "layers": "attention"})["settings"] == {"steps": 2}
    with pytest.raises(ConfigError, match=r"layers \('attention' there, 'convolutions' now\)"):
        later.begin(tmp_path, {"steps": 2, "layers": "convolutions"})


def test_what_a_killed_write_left_is_no_content(tmp_path: Path) -> None:
    (tmp_path / ".demo.json.1.tmp").write_text("{")
    assert MARKER.read(tmp_path) is None


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("", "cannot be read"),
        ("[]", "is not of a twinact demo"),
        ('{"kind": "twinact-run", "version": 1}', "is not of a twinact demo"),
        ('{"kind": "twinact-demo"}', "has demo format None"),
    ],
)
def test_marker_of_something_else_is_refused(tmp_path: Path, marker: str, told: str) -> None:
    (tmp_path / "demo.json").write_text(marker)
    with pytest.raises(DataError, match=told):
        MARKER.begin(tmp_path, {})
    assert (tmp_path / "demo.json").read_text() == marker
    with pytest.raises(DataError, match="is a file"):
        MARKER.read(tmp_path / "demo.json")
