"""Libraries say nothing of their own when a model cannot be opened: what failed is told once, in our words."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from twinact.backbones import load
from twinact.errors import CheckpointError


def test_a_part_in_another_precision_leaks_no_line(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "sd"))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(
        {key: tensor.half() for key, tensor in load_file(weights).items()},
        weights.with_name("diffusion_pytorch_model.fp16.safetensors"),
    )
    weights.unlink()
    capfd.readouterr()
    with pytest.raises(CheckpointError, match="vae") as caught:
        load(folder, "cpu")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "") and not caplog.records
