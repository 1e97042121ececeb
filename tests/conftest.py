"""What several test files start from; tests only read it.

Fixtures import what they need: the process that hands tests to others reads this file, too, and needs none of it.
"""

import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from twinact.backbones.backbone import Backbone
    from twinact.data.exemplars import Exemplars
    from twinact.readers import LatentActionEncoder
    from twinact.space import ActionSpace


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion."""
    from tiny import tiny_sd

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_sd().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as nano's, that knows the words of the world, with untrained weights."""
    import torch

    from tiny import tiny_sd
    from twinact.backbones import load
    from twinact.backbones.shipped import model_dir
    from twinact.phrases import load_phrases
    from twinact.readers import FOLDER, LatentActionEncoder
    from twinact.readers.latent import EncoderConfig
    from twinact.space import ActionSpace
    from twinact.space.build import SPACE_FILE, build_space
    from twinact.world.bodies import ACTORS
    from twinact.world.judges.judges import Judges
    from twinact.world.places import PLACES

    folder = tmp_path_factory.mktemp("models") / "nano"
    texts = [*ACTORS, *(place.text for place in PLACES.values()), *(phrase.text for phrase in load_phrases())]
    words = sorted({word for text in texts for word in text.split()} | {"a", "an", "with", "and"})
    tiny_sd(words=words).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LatentActionEncoder(EncoderConfig(4, 3, ((0, 1), (1, 2)), width=8, deep=8)).save(folder / FOLDER)
        Judges().save(folder / "judges")
    # Sliders need poses; what the shipped model draws for the phrases will do.
    shipped = ActionSpace.load(model_dir() / SPACE_FILE)
    space = build_space(load(folder), phrases=shipped.phrases)
    replace(space, poses=shipped.poses).save(folder / SPACE_FILE)
    return folder


@pytest.fixture(scope="module")
def backbone() -> "Backbone":
    from tiny import tiny_sd
    from twinact.backbones.sd import StableDiffusion

    return StableDiffusion(tiny_sd(), "tiny@0")


@pytest.fixture(scope="module")
def space(backbone: "Backbone") -> "ActionSpace":
    from small import small_space

    return small_space(backbone)


@pytest.fixture(scope="module")
def encoder() -> "LatentActionEncoder":
    import torch

    from twinact.readers import LatentActionEncoder
    from twinact.readers.latent import EncoderConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return LatentActionEncoder(EncoderConfig(4, 5, ((0, 1), (1, 2), (2, 3), (3, 4)), width=8, deep=16))


@pytest.fixture(scope="module")
def exemplars(tmp_path_factory: pytest.TempPathFactory) -> "Exemplars":
    """Three pictures, one with a caption of its own."""
    from small import exemplars_in
    from twinact.data.exemplars import load_exemplars

    folder = tmp_path_factory.mktemp("exemplars")
    exemplars_in(folder)
    (folder / "0.txt").write_text("a robot <act> in the park")
    return load_exemplars(folder, 32)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is `slow_but` some parameters, such as one family of models, all other cases are slow.

    Tests that have a longer timeout of their own come first: in the end, all workers but one would wait for them.
    """
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
    for item in items:
        _, *parameters = re.split(r"[\[\]-]", item.name)
        if any(not {*mark.args} & {*parameters} for mark in item.iter_markers("slow_but")):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of the command line are not those of whoever runs them."""
    monkeypatch.setattr("typer.get_app_dir", lambda name: str(tmp_path_factory.getbasetemp() / "no settings"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the network fails."""

    def unreachable(*args: Any) -> None:
        raise AssertionError(f"network asked for {args}")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)


@pytest.fixture
def quick_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges that see nothing fit bodies to noise for long; for tests that judge many pictures with such judges."""
    monkeypatch.setattr("twinact.world.judges.body_fit._MOST_EVALUATIONS", 2)
