"""The command line of the world and of the embedded model."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from commands import content, done, invoke, refused
from twinact.world.judges.judges import Judges
from twinact.world.splits import CUSTOM_ACTIONS


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_world_exemplars(tmp_path: Path) -> None:
    folders = done("world", "exemplars", "--out", "custom", "--size", "32").stdout.splitlines()
    assert len(folders) == 48
    assert all(len(list(Path(folder).glob("*.png"))) == 5 for folder in folders)
    assert "is not empty" in refused("world", "exemplars", "--out", "custom")


def test_gallery_replaces_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery/mine.jpg").write_bytes(b"mine")
    (tmp_path / "notes.md").write_text("mine")
    before = content(tmp_path)
    assert "holds something else" in refused("world", "gallery", "--out", "gallery")
    assert "was not made by the gallery" in refused("world", "gallery", "--out", "notes")
    assert content(tmp_path) == before


def test_names_that_somebody_takes_in_the_meantime_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come(*given: object) -> Image.Image:
        """Draws nothing, while somebody else writes where the second sheet would come."""
        (tmp_path / "gallery" / "places.jpg").write_bytes(b"mine")
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("twinact.world.gallery._contact_sheet", come)
    (tmp_path / "gallery").mkdir()
    assert "places.jpg' already exists" in refused("world", "gallery", "--out", "gallery")
    second = list(CUSTOM_ACTIONS)[1]

    def taken(*given: object) -> None:
        (tmp_path / "custom" / second).mkdir()

    monkeypatch.setattr("twinact.world.splits.write_exemplars", taken)
    told = invoke("world", "exemplars", "--out", "custom", "--size", "32")
    assert told.exit_code == 1 and f"custom/{second}' already exists" in told.stderr
    assert (tmp_path / "gallery" / "places.jpg").read_bytes() == b"mine"


@pytest.mark.slow
def test_gallery_is_drawn_anew_to_the_same_bytes(tmp_path: Path) -> None:
    assert done("world", "gallery", "--out", "docs/gallery").stdout == "docs/gallery.md\n"
    before = content(tmp_path)
    page = (tmp_path / "docs/gallery.md").read_text()
    sheets = list((tmp_path / "docs/gallery").iterdir())
    assert len(sheets) == 9
    assert all(f"(gallery/{sheet.name})" in page for sheet in sheets)
    done("world", "gallery", "--out", "docs/gallery")
    assert content(tmp_path) == before


def test_nano_training_refuses_other_folders_and_parts(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("words")
    assert "is not empty" in refused("nano", "train", "--out", "full")
    assert "'brain'" in refused("nano", "train", "--out", "new", "--parts", "brain", code=2)
    for change in ("unet.speed=3", "unet", "seed", "unet.minutes=soon"):
        assert f"change '{change}'" in refused("nano", "train", "--out", "new", "--set", change, code=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_nano_evaluation_tells_what_cannot_be_before_anything_is_drawn(toy_nano: Path, tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"mine")
    evaluate = ("nano", "evaluate", "--model", toy_nano)
    assert "'sheet.jpg' must be a PNG" in refused(*evaluate, "--sheet", "sheet.jpg", code=2)
    assert "folder 'gone' of the sheet does not exist" in refused(*evaluate, "--sheet", "gone/sheet.png")
    assert "'there.png' already exists" in refused(*evaluate, "--sheet", "there.png")
    assert "between is 9999" in refused(*evaluate, "--between", "9999", "--sheet", "new.png", code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]


@pytest.mark.slow
def test_nano_evaluation_takes_the_judges_of_the_folder_or_else_the_shipped_ones(toy_nano: Path) -> None:
    shutil.copytree(toy_nano, "toy", ignore=shutil.ignore_patterns("judges"))
    too_many = ("nano", "evaluate", "--model", "toy", "--between", "9999")
    assert "between is 9999" in refused(*too_many, code=2)
    Judges().save(Path("toy/judges"))
    config = Path("toy/judges/config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "world_version": 0}))
    assert "toy/judges: the judges belong to another world" in refused(*too_many)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_fits")
def test_nano_evaluation_writes_figures_and_a_sheet(toy_nano: Path) -> None:
    few = ("--prompts", "3", "--steps", "1", "--between", "1")
    facts = json.loads(done("nano", "evaluate", "--model", toy_nano, *few, "--sheet", "a.png", "--json").stdout)
    assert facts["model"].startswith("nano@") and facts["seconds to load"] > 0
    assert facts["nano"]["prompts"] == 3 and facts["between phrases"]["monotone"]["count"] == 1
    assert facts["vae"]["count"] == 100 and facts["judges"]["poses of the captions"]["actor"]["count"] == 100
    with Image.open("a.png") as sheet:
        assert sheet.format == "PNG" and sheet.size == (4 * 2 * 32, 3 * 32)
