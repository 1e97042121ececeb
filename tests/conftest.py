"""What several test files start from; tests only read it."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from small import exemplars_in, small_space
from tiny import tiny_sd
from twinact.backbones import load
from twinact.backbones.base import Backbone
from twinact.backbones.sd import StableDiffusion
from twinact.bench.judges import Judges
from twinact.encoders import FOLDER, LatentActionEncoder
from twinact.encoders.pose import EncoderConfig
from twinact.exemplars import Exemplars, load_exemplars
from twinact.phrases import load_phrases
from twinact.space import ActionSpace
from twinact.workflow import SPACE_FILE, build_space
from twinact.world.bodies import ACTORS
from twinact.world.places import PLACES


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_sd().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as nano's, that knows the words of the world, with untrained weights."""
    folder = tmp_path_factory.mktemp("models") / "nano"
    texts = [*ACTORS, *(place.text for place in PLACES.values()), *(phrase.text for phrase in load_phrases())]
    words = sorted({word for text in texts for word in text.split()} | {"a", "an", "with", "and"})
    tiny_sd(words=words).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LatentActionEncoder(EncoderConfig(4, 3, ((0, 1), (1, 2)), width=8, deep=8)).save(folder / FOLDER)
        Judges().save(folder / "judges")
    build_space(load(folder)).save(folder / SPACE_FILE)
    return folder


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return StableDiffusion(tiny_sd(), "tiny@0")


@pytest.fixture(scope="module")
def space(backbone: Backbone) -> ActionSpace:
    return small_space(backbone)


@pytest.fixture(scope="module")
def encoder() -> LatentActionEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return LatentActionEncoder(EncoderConfig(4, 5, ((0, 1), (1, 2), (2, 3), (3, 4)), width=8, deep=16))


@pytest.fixture(scope="module")
def exemplars(tmp_path_factory: pytest.TempPathFactory) -> Exemplars:
    """Three pictures, one with a caption of its own."""
    folder = tmp_path_factory.mktemp("exemplars")
    exemplars_in(folder)
    (folder / "0.txt").write_text("a robot <act> in the park")
    return load_exemplars(folder, 32)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the network fails."""

    def unreachable(*args: Any) -> None:
        raise AssertionError(f"network asked for {args}")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)


@pytest.fixture(autouse=True)
def quick_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges that see nothing fit bodies to noise for long, and the checks of types make every evaluation 40 times as
    slow.
    """
    monkeypatch.setattr("twinact.bench.body_fit._MOST_EVALUATIONS", 2)
