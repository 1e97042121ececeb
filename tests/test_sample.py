"""Generation: what does not depend on the model's family; see test_backbones.py for what does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from families import pixels
from tiny import tiny_sd
from twinact.backbones import load
from twinact.backbones.backbone import Backbone
from twinact.backbones.facts import ModelFacts
from twinact.cli.outputs import PictureFolder, new_file, new_folder
from twinact.errors import ConfigError, DataError
from twinact.sample import generate

PROMPTS = ["a robot <act> in a park", "a cat <act>", "<act> on the moon", "a dog <act>"]
SEEDS = [7, 8, 9, 7]


@pytest.fixture(scope="module")
def vectors(backbone: Backbone) -> dict[str, list[torch.Tensor]]:
    return {"<act>": [backbone.token_tables()[0].embed("jumping red dog")]}


@pytest.mark.slow
def test_pictures_do_not_depend_on_their_batch(backbone: Backbone, vectors: dict[str, list[torch.Tensor]]) -> None:
    together = generate(backbone, PROMPTS, vectors, seeds=SEEDS, steps=3)
    assert all(image.size == (32, 32) and image.mode == "RGB" for image in together)
    alone = [
        generate(backbone, [prompt], vectors, seeds=[seed], steps=3)[0]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    # Sums of a batch run in another order than those of one picture: at most the last bit of a pixel.
    assert np.abs(pixels(together) - pixels(alone)).max() <= 1
    uneven = generate(backbone, PROMPTS, vectors, seeds=SEEDS, steps=3, batch_size=3)
    assert np.abs(pixels(together) - pixels(uneven)).max() <= 1


def test_guidance_and_vectors_matter(backbone: Backbone, vectors: dict[str, list[torch.Tensor]]) -> None:
    drawn = pixels(generate(backbone, PROMPTS[:1], vectors, seeds=[1], steps=3))
    unguided = pixels(generate(backbone, PROMPTS[:1], vectors, seeds=[1], steps=3, guidance=1.0))
    other = {"<act>": [-vectors["<act>"][0]]}
    assert (drawn != unguided).any()
    assert (drawn != pixels(generate(backbone, PROMPTS[:1], other, seeds=[1], steps=3))).any()


@pytest.mark.parametrize(("facts", "guidance"), [(ModelFacts(), 7.5), (ModelFacts(guidance=2.0), 2.0)])
def test_guidance_is_that_of_the_models_folder_if_not_given(facts: ModelFacts, guidance: float, tmp_path: Path) -> None:
    tiny_sd().save_pretrained(tmp_path / "nano")  # a name that means nothing
    facts.write(tmp_path / "nano")
    backbone = load(tmp_path / "nano")
    assert backbone.guidance == guidance
    drawn = pixels(generate(backbone, ["a cat"], seeds=[1], steps=3))
    assert np.array_equal(drawn, pixels(generate(backbone, ["a cat"], seeds=[1], steps=3, guidance=guidance)))
    assert (drawn != pixels(generate(backbone, ["a cat"], seeds=[1], steps=3, guidance=4.0))).any()


def test_it_is_quiet_and_reports_progress(
    backbone: Backbone, vectors: dict[str, list[torch.Tensor]], capfd: pytest.CaptureFixture[str]
) -> None:
    reported: list[tuple[int, int]] = []
    generate(
        backbone, PROMPTS, vectors, seeds=SEEDS, steps=1, batch_size=3, progress=lambda *done: reported.append(done)
    )
    assert reported == [(3, 4), (4, 4)]
    assert capfd.readouterr() == ("", "")
    assert generate(backbone, [], vectors, seeds=[]) == []


def test_wrong_arguments_are_one_line_errors(backbone: Backbone, vectors: dict[str, list[torch.Tensor]]) -> None:
    with pytest.raises(DataError, match=r"prompt 'a cat' does not say where the action goes: put <act> in it"):
        generate(backbone, ["a cat"], vectors, seeds=[0])
    with pytest.raises(ConfigError, match="1 seeds for 4 prompts"):
        generate(backbone, PROMPTS, vectors, seeds=[0])
    with pytest.raises(ConfigError, match="steps is 0"):
        generate(backbone, PROMPTS, vectors, seeds=SEEDS, steps=0)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        generate(backbone, PROMPTS, vectors, seeds=SEEDS, batch_size=0)


def test_outputs(tmp_path: Path) -> None:
    assert new_file(tmp_path / "a") == tmp_path / "a"
    assert new_folder(tmp_path / "b") == tmp_path / "b"
    folder = PictureFolder(tmp_path / "p")
    assert not (tmp_path / "p").exists()
    image = Image.new("RGB", (4, 4))
    assert folder.add(image, "a_b", {"seed": 3}, "ü").name == "a_b_00000_3.png"
    assert PictureFolder(tmp_path / "p").add(image, "c-d", {"seed": 4}, "").name == "c-d_00001_4.png"
    with Image.open(tmp_path / "p/a_b_00000_3.png") as saved:
        assert saved.text["parameters"] == "ü"
