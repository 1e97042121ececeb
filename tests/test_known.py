"""What a model cannot know is told by name: words, pictures, and where to start."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from small import exemplars_in
from twinact.backbones import load
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig
from twinact.data.exemplars import read_exemplars
from twinact.errors import ConfigError
from twinact.jobs.job import Job
from twinact.jobs.known import tell_strange_pictures, tell_unknown_words, unknown_words
from twinact.jobs.run import run_job
from twinact.nano.recipe import RECIPE
from twinact.readers import load_action_encoder
from twinact.world.splits import CUSTOM_ACTIONS, write_exemplars


@pytest.fixture(scope="module")
def nano() -> Backbone:
    return load("nano", "cpu")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("my grandmother <act> in our kitchen", ["grandmother", "our"]),
        ("Grandmother <act>, with <actor>", ["Grandmother"]),
        ("a robot jumping in a park", []),
        ("eine Frau 跳 <act>", ["eine", "Frau", "跳"]),
    ],
)
def test_unknown_words_are_named(text: str, words: list[str], nano: Backbone) -> None:
    assert [word for word in unknown_words(nano, [text]) if word != "my"] == words
    told: list[str] = []
    tell_unknown_words(nano, [text], told.append)
    assert len(told) == bool(unknown_words(nano, [text]))
    assert all(word in told[0] and "--model" in told[0] for word in words)


def test_a_model_that_spells_any_word_knows_all(nano: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinact.jobs.known._WORD_LIST", 100)
    assert unknown_words(nano, ["my grandmother"]) == []


@pytest.mark.slow  # the shipped weights
def test_pictures_unlike_those_of_the_model_are_named(nano: Backbone, tmp_path: Path) -> None:
    assert nano.folder is not None
    encoder = load_action_encoder(nano.folder)
    write_exemplars(next(iter(CUSTOM_ACTIONS.values())), tmp_path, nano.image_size, RECIPE.places)
    ours = {path.name for path in tmp_path.glob("*.png")}
    random = np.random.default_rng(0)
    noise, blocks = (random.integers(0, 255, (side, side, 3), dtype=np.uint8) for side in (96, 6))
    strange = {
        "page.png": Image.new("RGB", (96, 96), "white"),
        "noise.png": Image.fromarray(noise),
        "photo.png": Image.fromarray(blocks).resize((96, 96), Image.Resampling.BICUBIC),
    }
    told: list[str] = []
    tell_strange_pictures(nano, encoder, read_exemplars(tmp_path), told.append)
    assert told == []
    for name, picture in strange.items():
        picture.save(tmp_path / name)
    tell_strange_pictures(nano, encoder, read_exemplars(tmp_path), told.append)
    assert len(told) == 1 and f"(3 of {len(ours) + 3})" in told[0] and "--model" in told[0]
    assert all(name in told[0] for name in strange) and not any(name in told[0] for name in ours)
    tell_strange_pictures(nano, None, read_exemplars(tmp_path), told.append)  # nobody has taught it to see
    assert len(told) == 1


@pytest.mark.slow
def test_an_unknown_start_is_refused_with_the_nearest(nano: Backbone, tmp_path: Path) -> None:
    exemplars_in(tmp_path / "leap")
    config = LearnConfig(name="leap", steps=1, start="jumpingg")
    job = Job(exemplars=tmp_path / "leap", config=config, run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"start 'jumpingg' has words .* \(jumpingg\); did you mean 'jumping"):
        run_job(job, backbone=nano, tell=lambda text: None)
    with pytest.raises(ConfigError, match="choose other words, such as"):
        run_job(replace(job, config=replace(config, start="xyzzy")), backbone=nano, tell=lambda text: None)
    assert not (tmp_path / "run").exists()
