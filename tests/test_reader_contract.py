"""What every pose reader and every way to read an intended pose promise."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from families import CORE, backbone_of
from tiny import tiny_sd
from twinact import PLACEHOLDER
from twinact.backbones import load
from twinact.backbones.backbone import Backbone, TextCond
from twinact.backbones.facts import FACTS_FILE, ModelFacts
from twinact.errors import CheckpointError
from twinact.intent import EarlyPose, IntendedPose, intended_pose
from twinact.intent.eyes import LatentEyes
from twinact.intent.prompts import other_prompts
from twinact.phrases.wording import said
from twinact.readers import FOLDER, LatentActionEncoder
from twinact.readers.body import SEGMENTS
from twinact.readers.latent import EncoderConfig
from twinact.readers.own import LatentPoseReader
from twinact.readers.reader import PoseReader
from twinact.world.judges.judges import Judges


def encoder_for(backbone: Backbone) -> LatentActionEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return LatentActionEncoder(EncoderConfig(backbone.latent_shape[0], 4, ((0, 1), (1, 2), (2, 3)), 8, 8))


def pictures() -> list[Image.Image]:
    """Of several shapes and modes, as photographs are."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 3), dtype=np.uint8)
    return [Image.fromarray(noise), Image.new("RGB", (32, 50), "teal"), Image.new("L", (90, 90), 128)]


@pytest.mark.parametrize("name", [name for name in CORE if name != "klein"])  # its tiny latents are too small
def test_a_reader_gives_directions_and_how_sure_it_is(name: str) -> None:
    backbone = backbone_of(name)
    reader = LatentPoseReader(encoder_for(backbone), backbone)
    assert isinstance(reader, PoseReader)
    reading = reader.read(pictures())
    assert reading.directions.shape == (3, reader.segments, 2)
    torch.testing.assert_close(reading.directions.norm(dim=2), torch.ones(3, reader.segments))
    assert bool(((reading.weights >= 0) & (reading.weights <= 1)).all())
    left, top, right, bottom = reading.boxes.T
    assert bool((left <= right).all() and (top <= bottom).all() and (reading.boxes >= 0).all())
    alone = reader.read(pictures()[1:2])
    torch.testing.assert_close(alone.directions, reading.directions[1:2], atol=1e-4, rtol=0)


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", CORE)
def test_an_intended_pose_can_be_differentiated_in_the_words(name: str, steps: int) -> None:
    backbone = backbone_of(name)
    intent = EarlyPose(LatentEyes(encoder_for(backbone)), steps)
    assert isinstance(intent, IntendedPose)
    vectors = [torch.randn(2, table.width) * 0.02 for table in backbone.token_tables()]
    for block in vectors:
        block.requires_grad_(True)
    noise = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = [f"a robot {PLACEHOLDER}", f"a dog {PLACEHOLDER} in the park"]

    def read(cond: TextCond) -> torch.Tensor:
        return intent.read(backbone, cond, noise)

    before = backbone.passes.forward
    directions = read(backbone.encode_text(prompts, {PLACEHOLDER: vectors}))
    assert directions.shape == (2, 3, 2) and backbone.passes.forward == before + 2 * steps
    directions[..., 0].sum().backward()
    assert any(block.grad is not None and float(block.grad.abs().max()) > 0 for block in vectors)


@pytest.mark.slow
def test_nano_means_height_where_it_is_said() -> None:
    nano = load("nano", "cpu")
    intent = intended_pose(nano)
    assert intent is not None
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, *nano.latent_shape, generator=generator)
    heights = []
    for phrase in ("jumping high", "arms overhead"):
        prompts = [said(prompt, phrase) for prompt in other_prompts(torch.Generator().manual_seed(0), 8)]
        read = intent.read(nano, nano.encode_text(prompts), noise)
        assert read.shape == (8, len(SEGMENTS) + 1, 2)
        heights.append(torch.atan2(read[:, -1, 0], -read[:, -1, 1]).rad2deg().median() / 90)
    assert float(heights[0]) > 0.3 > 0.12 > abs(float(heights[1]))


@pytest.mark.slow
def test_the_folder_of_a_model_says_how_its_intent_is_read(tmp_path: Path) -> None:
    tiny_sd().save_pretrained(tmp_path)
    assert intended_pose(load(tmp_path)) is None
    ModelFacts(intent_steps=1).write(tmp_path)
    assert intended_pose(load(tmp_path)) is None  # nothing to read it with
    encoder_for(load(tmp_path)).save(tmp_path / FOLDER)
    for steps in (1, 4):
        ModelFacts(intent_steps=steps).write(tmp_path)
        intent = intended_pose(load(tmp_path))
        assert intent is not None and intent.steps == steps


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "guidance": "much"}',
                                     '{"version": 1, "unknown": 1}', '{"version": 1, "guidance": NaN}',
                                     '{"version": 1, "guidance": 1e9}', '{"version": 1, "intent_steps": 0}',
                                     "[" * 100_000])  # fmt: skip
def test_damaged_facts_of_a_model_are_told(content: str, tmp_path: Path) -> None:
    tiny_sd().save_pretrained(tmp_path)
    (tmp_path / FACTS_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"twinact\.json"):
        load(tmp_path)


def test_facts_that_are_no_file_are_told(tmp_path: Path) -> None:
    assert ModelFacts.read(tmp_path) == ModelFacts()
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        make(folder / FACTS_FILE)
        with pytest.raises(CheckpointError, match=r"twinact\.json"):
            ModelFacts.read(folder)


@pytest.mark.parametrize("content", [None, b"", b"x" * 200, b"8" + bytes(7) + b"{}"])
@pytest.mark.parametrize("file", ["config.json", "judges.safetensors"])
def test_damaged_judges_are_told(file: str, content: bytes | None, tmp_path: Path) -> None:
    Judges().save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match="judges"):
        Judges.load(tmp_path)
