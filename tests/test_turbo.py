"""Token vectors touch no weights: what a base model has learned is drawn by its distilled one, from the same file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from families import FAMILIES, pixels
from small import exemplars_in
from twinact.action import Action
from twinact.backbones import load
from twinact.cli import app
from twinact.sample import generate


def retrained(folder: Path, new: Path) -> Path:
    """The same model with another transformer and another schedule, as a distilled one or a fine-tune has them."""
    shutil.copytree(folder, new)
    weights = new / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: 1.05 * value for name, value in load_file(weights).items()}, weights)
    schedule = new / "scheduler" / "scheduler_config.json"
    schedule.write_text(json.dumps({**json.loads(schedule.read_text()), "shift": 2.5}))
    return new


@pytest.mark.slow
@pytest.mark.parametrize(("name", "other"), [("z-image", "Z-Image-Turbo"), ("klein", "klein-fine-tune")])
def test_an_action_of_the_base_is_drawn_by_its_relatives(name: str, other: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    FAMILIES[name].make().save_pretrained(base)
    turbo = retrained(base, tmp_path / other)
    exemplars_in(tmp_path / "leap", 2)
    learned = CliRunner().invoke(
        app,
        ["learn", str(tmp_path / "leap"), "--model", str(base), "--method", "textual-inversion", "--steps", "1",
         "--batch-size", "1", "--preview-every", "0", "--precision", "fp32", "--out", str(tmp_path / "run")],
    )  # fmt: skip
    assert learned.exit_code == 0, learned.stderr
    file = learned.stdout.strip()
    drawn = CliRunner().invoke(
        app,
        ["generate", file, "--model", str(turbo), "--prompt", "a cat <act>", "--steps", "2", "--seed", "3",
         "--precision", "fp32", "--out", str(tmp_path / "pictures")],
    )  # fmt: skip
    assert drawn.exit_code == 0, drawn.stderr
    assert "is another model with the same text encoders (they differ in: denoiser, scheduler)" in drawn.stderr
    backbone, action = load(turbo, "cpu"), Action.load(file)
    told = {"<act>": action.vectors}
    assert torch.equal(
        backbone.encode_text(["<act>"], told).hidden, load(base, "cpu").encode_text(["<act>"], told).hidden
    )
    expected = pixels(generate(backbone, ["a cat <act>"], told, seeds=[3], steps=2))
    with Image.open(drawn.stdout.strip()) as picture:
        assert np.array_equal(np.asarray(picture, dtype=np.int16), expected[0])
    if name == "z-image":
        assert (backbone.steps, backbone.guidance) == (8, 0.0)
