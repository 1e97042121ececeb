"""The recipe of nano at toy size: every part, what it builds on, and what it refuses."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline

from twinact.backbones.facts import FACTS_FILE
from twinact.errors import ConfigError, DataError
from twinact.jobs.models import open_model
from twinact.nano.data import (
    picture_batches,
    trained_part,
)
from twinact.nano.recipe import RECIPE, Fit, Recipe
from twinact.nano.refine import pose_distance
from twinact.nano.train import PARTS, train_nano
from twinact.nano.vae import PatchCodes, build_vae
from twinact.readers import load_action_encoder
from twinact.space.build import SPACE_FILE
from twinact.world.judges.judges import Judges

TINY = Fit(8, 4, 1e-3)
TOY = replace(
    RECIPE, distinct_pictures=8, drawings=4, phrase_drawings=1, text=Fit(48, 24, 1e-3), vae=TINY, unet=TINY,
    encoder=TINY, refine=TINY, judges=TINY, drawing_steps=1,
)  # fmt: skip
SMALLER = replace(TOY, text_width=64, text_layers=1, vae_channels=(8, 8, 8, 8), encoder_widths=(8, 8),
                  unet_channels=(16, 32, 32), unet_heads=(2, 4, 4))  # fmt: skip


def _train(run: Path, *parts: str, recipe: Recipe = SMALLER, start: Path | None = None) -> Path:
    return train_nano(recipe, run, parts or None, start=start, workers=0, report=lambda _line: None)


@pytest.mark.slow
def test_every_part_can_be_trained_alone_and_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("twinact.nano.vae._FITTED_ON", 20)
    brought = {
        "text": {"text_encoder", "tokenizer", "training.json"},
        "vae": {"vae"},
        "encoder": {"action_encoder"},
        "judges": {"judges"},
        "unet": {"unet", "scheduler", "model_index.json", FACTS_FILE, SPACE_FILE},
        "refine": set(),
    }
    assert set(brought) == set(PARTS)
    there: set[str] = set()
    weights: dict[str, bytes] = {}
    for part, files in brought.items():
        before, model = weights, _train(tmp_path / "run", part)
        weights = {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*.safetensors")}
        other = {name.split("/")[0] for name, content in before.items() if weights[name] != content}
        further = {"unet": {"text_encoder"}, "refine": {"unet", "text_encoder", SPACE_FILE}}
        assert other == further.get(part, set()), part
        there |= files
        assert {path.name for path in model.iterdir()} == there, part
    pipeline = DiffusionPipeline.from_pretrained(model)
    assert pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float32
    assert load_action_encoder(model) is not None and Judges.load(model / "judges").actors


@pytest.mark.slow
def test_the_drawn_pose_reaches_the_unet(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("twinact.nano.vae._FITTED_ON", 20)
    model = _train(tmp_path / "run", "text", "vae", "encoder", "unet")
    refined = [
        _train(tmp_path / f"weight-{weight}", "refine", recipe=replace(SMALLER, pose_weight=weight), start=model)
        for weight in (0.0, 2.0)
    ]
    without, with_pose = ((folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() for folder in refined)
    assert without != with_pose


def test_the_distance_from_a_choice_of_poses_is_that_from_one_of_them() -> None:
    up, down, right = torch.tensor([[0.0, -1.0], [0.0, 1.0], [1.0, 0.0]])
    wanted = torch.stack([torch.stack([up, up]), torch.stack([down, down])])[None]  # one picture, two poses
    first, second = torch.stack([up, up])[None], torch.stack([down, down])[None]

    def of(*steps: torch.Tensor, weights: tuple[float, float] = (1.0, 1.0)) -> float:
        return float(pose_distance(torch.stack(steps), wanted, torch.tensor([weights]), slack=0.1))

    assert of(first, first) == of(second, second) == 0
    assert of(first, second) == pytest.approx(0.95)  # half of the steps are 2 away
    assert of(torch.stack([up, right])[None]) == pytest.approx((2**0.5 - 0.1) / 2, abs=1e-4)
    assert of(torch.stack([up, right])[None], weights=(1.0, 0.0)) == 0, "what words leave open does not count"


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_recipe_only(tmp_path: Path, monkeypatch) -> None:
    _train(tmp_path / "run", "text")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"recipe\.guidance \(3\.0 there, 2\.0 now\), recipe\.unet\.batch_size \(4"):
        _train(tmp_path / "run", recipe=replace(SMALLER, unet=Fit(8, 2, 1e-3), guidance=2.0))
    monkeypatch.setattr("twinact.nano.train.WORLD_VERSION", 1000)
    with pytest.raises(ConfigError, match=r"world_version \(\d+ there, 1000 now\)"):
        _train(tmp_path / "run", "text")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_start_that_cannot_be_used_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        _train(tmp_path / "run", "unet", start=tmp_path / "none")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_text_tower_that_is_too_short_must_be_trained_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("twinact.nano.vae._FITTED_ON", 20)
    model = _train(tmp_path / "run", "unet", recipe=replace(SMALLER, max_tokens=40))
    with pytest.raises(ConfigError, match="reads 40 tokens and the recipe has 48; train part 'text' too"):
        _train(tmp_path / "further", "unet", start=model)
    further = _train(tmp_path / "both", "text", "unet", start=model)
    assert open_model(further).token_tables()[0].tokenizer.model_max_length == 48


@pytest.mark.slow
def test_importing_the_training_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", "import twinact.nano.train"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_whole_recipe_at_toy_size(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("twinact.nano.vae._FITTED_ON", 20)
    pipeline = DiffusionPipeline.from_pretrained(_train(tmp_path / "run", recipe=TOY))
    assert tuple(pipeline.unet.config.block_out_channels) == RECIPE.unet_channels


@pytest.mark.slow
def test_a_unet_that_is_trained_on_leaves_the_rest_as_it_was(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("twinact.nano.vae._FITTED_ON", 20)
    model = _train(tmp_path / "run")
    further = _train(tmp_path / "further", "unet", start=model)
    assert {path.name for path in further.iterdir()} == {path.name for path in model.iterdir()}
    before, after = DiffusionPipeline.from_pretrained(model), DiffusionPipeline.from_pretrained(further)
    for one, other in zip(before.vae.parameters(), after.vae.parameters(), strict=True):
        assert torch.equal(one, other), "the VAE must stay as it was"
    assert not torch.equal(next(before.unet.parameters()), next(after.unet.parameters()))


@pytest.mark.slow
def test_codes_of_a_vae_are_what_it_imitates(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = PatchCodes(torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0)) / 7, torch.ones(16))

    vae = build_vae(SMALLER)
    seen: list[torch.Tensor] = []

    def encode(images: torch.Tensor) -> SimpleNamespace:
        seen.append(images)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: codes.encode(images)))

    vae.encode = encode  # type: ignore[method-assign]
    monkeypatch.setattr("twinact.nano.vae._FITTED_ON", 200)
    found = PatchCodes.of(vae, RECIPE, 0)
    assert sum(map(len, seen)) == 200 and seen[0].shape[-1] == 128
    pixels = picture_batches(RECIPE, trained_part(RECIPE), 4, 4, stream=9, workers=0)
    images = next(pixels).images
    torch.testing.assert_close(found.encode(images), codes.encode(images), atol=0.02, rtol=0.02)
