"""The training loop, its methods and its run folder, on a real pipeline at the smallest size."""

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import Tensor

from small import PHRASES, exemplars_in, learn, mask_in
from tiny import tiny_sd
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.sd import StableDiffusion
from twinact.configs import METHODS, LearnConfig, RunConfig, TextualInversionConfig, TwinActConfig
from twinact.data.exemplars import Exemplars, load_exemplars
from twinact.errors import CheckpointError, ConfigError, DataError, TwinactError
from twinact.methods import Batch, make_method
from twinact.methods.batches import draw_batch, latent_masks
from twinact.methods.textual_inversion import TextualInversion
from twinact.readers import LatentActionEncoder
from twinact.space import ActionSpace
from twinact.space.stored_action import FORMAT_VERSION
from twinact.storage import read_safetensors, tensor_hash
from twinact.training.loop import StepRecord, encode_exemplars, rate_share
from twinact.training.loop import train as train_with_defaults

TWINACT = LearnConfig(name="leap", steps=6, batch_size=4, seed=3)
INVERSION = replace(TWINACT, method=TextualInversionConfig())
RUN = RunConfig(checkpoint_every=2)
train = partial(train_with_defaults, run=RUN)
BOTH = pytest.mark.parametrize("config", [TWINACT, INVERSION], ids=lambda config: config.method.name)


def stop_after(step: int) -> Callable[[StepRecord], None]:
    def progress(record: StepRecord) -> None:
        if record.step == step:
            raise KeyboardInterrupt

    return progress


def log_of(run: Path) -> list[dict[str, object]]:
    """Lines of a run's log without their times."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "crc32")} for line in lines]


def weights_hash(backbone: Backbone) -> str:
    modules = (backbone.denoiser, backbone.pipeline().text_encoder, backbone.pipeline().vae)
    return tensor_hash({f"{i}.{name}": w for i, m in enumerate(modules) for name, w in m.state_dict().items()})


def last_checkpoint(run: Path) -> dict[str, Tensor]:
    return read_safetensors(max((run / "checkpoint").iterdir()), "checkpoint")[0]


@BOTH
def test_run_folder_is_complete_and_the_backbone_untouched(
    config: LearnConfig,
    backbone: Backbone,
    space: ActionSpace,
    encoder: LatentActionEncoder,
    exemplars: Exemplars,
    tmp_path: Path,
) -> None:
    before, encoder_before = weights_hash(backbone), tensor_hash(encoder.state_dict())
    method = make_method(config, backbone, space, encoder)
    seen: list[StepRecord] = []
    result = train(method, backbone, exemplars, config, tmp_path, seen.append)

    assert not result.already_done and result.resumed_from == 0
    assert weights_hash(backbone) == before
    assert tensor_hash(encoder.state_dict()) == encoder_before
    frozen = [*backbone.denoiser.parameters(), *encoder.parameters(), *backbone.pipeline().text_encoder.parameters()]
    assert all(parameter.grad is None for parameter in frozen)

    assert [record.step for record in seen] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [record.learning_rate for record in seen] == [config.rate * rate_share(config, step) for step in range(6)]
    assert log_of(tmp_path)[-1]["terms"] == result.terms == seen[-1].terms
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == [
        "step-00000004.safetensors",
        "step-00000006.safetensors",
    ]
    assert not list(tmp_path.rglob("*.tmp"))
    action = Action.load(tmp_path / "leap.action.safetensors")
    assert result.action_path == tmp_path / "leap.action.safetensors"
    assert [v.shape for v in action.vectors] == [(3, 32)]
    _, header = read_safetensors(result.action_path, "action", FORMAT_VERSION)
    assert header.keys() == {"kind", "version", "name", "model_id", "space_hash", "meta"}
    assert (header["version"], header["name"], header["model_id"]) == (FORMAT_VERSION, "leap", backbone.model_id)
    assert header["space_hash"] == (space.hash if config.method.takes_space else "")
    versions = {name: version(name) for name in ("twinact", "torch", "diffusers", "transformers")}
    assert header["meta"] == {
        "config": config.to_dict(), "precision": "fp32", "seed": config.seed, "versions": versions,
        "exemplars": list(exemplars.hashes), "captions": list(exemplars.captions),
    }  # fmt: skip
    assert json.loads((tmp_path / "config.json").read_text())["versions"] == versions
    start = make_method(config, backbone, space, encoder)
    start.attach(backbone)
    assert not torch.equal(action.vectors[0], start.action("leap", {}).vectors[0])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["twinact", "textual-inversion"])
def test_loss_falls(
    method: str,
    backbone: Backbone,
    space: ActionSpace,
    exemplars: Exemplars,
    encoder: LatentActionEncoder,
    tmp_path: Path,
) -> None:
    """The same noise and times before and after: what is compared is what was learned."""
    config = LearnConfig(name="leap", method=METHODS[method](), steps=40, batch_size=8, learning_rate=0.1)
    latents = encode_exemplars(backbone, exemplars)
    trial = make_method(config, backbone, space, encoder)

    def mean_loss() -> float:
        with torch.no_grad():
            batches = [draw_batch(backbone, latents, exemplars.captions, config, step) for step in range(1000, 1008)]
            losses = [trial.loss(backbone, b, torch.Generator())["loss"] for b in batches]
        return float(torch.stack(losses).mean())

    trial.attach(backbone)
    before = mean_loss()
    train(trial, backbone, exemplars, config, tmp_path)
    assert mean_loss() < before - 2e-3


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("stops", [(1,), (3, 4)])
def test_resume_equals_uninterrupted_to_the_bit(
    config: LearnConfig,
    stops: tuple[int, ...],
    backbone: Backbone,
    space: ActionSpace,
    encoder: LatentActionEncoder,
    exemplars: Exemplars,
    tmp_path: Path,
) -> None:
    whole = train(make_method(config, backbone, space, encoder), backbone, exemplars, config, tmp_path / "whole")
    pieces = tmp_path / "pieces"
    for step in stops:
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step} of 6"):
            train(make_method(config, backbone, space, encoder), backbone, exemplars, config, pieces, stop_after(step))
        torch.rand(5)  # the global generator must not matter
        assert not (pieces / "leap.action.safetensors").exists()
    result = train(make_method(config, backbone, space, encoder), backbone, exemplars, config, pieces)

    assert result.resumed_from == stops[-1]
    assert torch.equal(result.action.vectors[0], whole.action.vectors[0])
    assert tensor_hash(last_checkpoint(pieces)) == tensor_hash(last_checkpoint(tmp_path / "whole"))
    assert log_of(pieces) == log_of(tmp_path / "whole")


@pytest.mark.slow
def test_masks_are_part_of_batches_and_of_the_run(
    backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder, tmp_path: Path
) -> None:
    def learned(name: str, progress: Callable[[StepRecord], None] | None = None) -> Tensor:
        exemplars, method = load_exemplars(folder, 32), make_method(TWINACT, backbone, space, encoder)
        return train(method, backbone, exemplars, TWINACT, tmp_path / name, progress).action.vectors[0]

    folder = tmp_path / "pictures"
    exemplars_in(folder)
    plain = learned("plain")
    mask_in(folder)
    whole = learned("whole")
    assert not torch.equal(whole, plain)
    with pytest.raises(KeyboardInterrupt):
        learned("pieces", stop_after(3))
    assert torch.equal(learned("pieces"), whole)

    exemplars = load_exemplars(folder, 32)
    latents = encode_exemplars(backbone, exemplars)
    masks = latent_masks(exemplars, latents)
    assert masks is not None and masks.shape == (3, 1, *latents.shape[2:])
    half = latents.shape[-1] // 2
    assert (
        bool((masks[0, 0, :half, :half] == 1).all()) and float(masks[0].mean()) == 0.25 and bool((masks[1:] == 1).all())
    )
    for step in range(3):
        batch = draw_batch(backbone, latents, exemplars.captions, TWINACT, step, masks)
        without = draw_batch(backbone, latents, exemplars.captions, TWINACT, step)
        assert batch.mask is not None and without.mask is None and torch.equal(batch.noise, without.noise)
        masked = [bool((latent == latents[0]).all()) for latent in batch.latents]
        assert [float(mask.mean()) == 0.25 for mask in batch.mask] == masked

    (folder / "0.mask.png").unlink()
    with pytest.raises(ConfigError, match="other settings: exemplars"):
        learned("whole")


@pytest.mark.slow
def test_killed_between_checkpoints_takes_the_lost_steps_again(
    backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder, exemplars: Exemplars, tmp_path: Path
) -> None:
    whole = train(make_method(TWINACT, backbone, space, encoder), backbone, exemplars, TWINACT, tmp_path / "whole")

    def die(record: StepRecord) -> None:
        if record.step == 5:
            raise RuntimeError("power cut")

    pieces = tmp_path / "pieces"
    with pytest.raises(RuntimeError, match="power cut"):
        train(make_method(TWINACT, backbone, space, encoder), backbone, exemplars, TWINACT, pieces, die)
    with open(pieces / "log.jsonl", "a") as file:
        file.write('{"step": 6, "ste')  # a line cut by the kill
    newest = max((pieces / "checkpoint").iterdir())
    assert newest.name == "step-00000004.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 1  # a flipped bit: the checkpoint before it must do
    newest.write_bytes(data)

    result = train(make_method(TWINACT, backbone, space, encoder), backbone, exemplars, TWINACT, pieces)
    assert result.resumed_from == 2
    assert torch.equal(result.action.vectors[0], whole.action.vectors[0])
    assert log_of(pieces) == log_of(tmp_path / "whole")


def test_only_damaged_checkpoints_is_an_error(
    backbone: Backbone, space: ActionSpace, encoder: LatentActionEncoder, exemplars: Exemplars, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(make_method(TWINACT, backbone, space, encoder), backbone, exemplars, TWINACT, tmp_path, stop_after(3))
    for path in (tmp_path / "checkpoint").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="no checkpoint can be used"):
        train(make_method(TWINACT, backbone, space, encoder), backbone, exemplars, TWINACT, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_after_the_step_and_saves(
    number: signal.Signals, backbone: Backbone, exemplars: Exemplars, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:  # as under nohup, where a run does not stop either
        signal.signal(number, signal.SIG_DFL)
        request.addfinalizer(lambda: signal.signal(number, signal.SIG_IGN))

    class Signalled(TextualInversion):
        def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
            if batch.t.equal(third.t):
                os.kill(os.getpid(), number)  # in the middle of step 3
            return super().loss(backbone, batch, generator)

    latents = encode_exemplars(backbone, exemplars)
    third = draw_batch(backbone, latents, exemplars.captions, INVERSION, 2)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        train(Signalled(3, 5e-3), backbone, exemplars, INVERSION, tmp_path)
    assert signal.getsignal(number) is before
    assert (tmp_path / "checkpoint" / "step-00000003.safetensors").exists()


@BOTH
def test_a_finished_run_says_so_and_changes_nothing(
    config: LearnConfig,
    backbone: Backbone,
    space: ActionSpace,
    encoder: LatentActionEncoder,
    exemplars: Exemplars,
    tmp_path: Path,
) -> None:
    first = train(make_method(config, backbone, space, encoder), backbone, exemplars, config, tmp_path)
    files = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*")}
    again = train(make_method(config, backbone, space, encoder), backbone, exemplars, config, tmp_path)
    assert again.already_done and again.resumed_from == 6 and again.terms == first.terms
    assert torch.equal(again.action.vectors[0], first.action.vectors[0])
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*")} == files


def test_another_run_in_the_folder_is_refused_by_what_differs(
    backbone: Backbone,
    space: ActionSpace,
    encoder: LatentActionEncoder,
    exemplars: Exemplars,
    tmp_path: Path,
) -> None:
    config = replace(TWINACT, steps=1)
    train(make_method(config, backbone, space, encoder), backbone, exemplars, config, tmp_path)
    other = replace(config, seed=4, method=TwinActConfig(prior_weight=0.5))
    with pytest.raises(ConfigError, match=r"other settings: prior_weight \(0.0001 .*seed \(3 there, 4 now\)") as caught:
        train(make_method(other, backbone, space, encoder), backbone, exemplars, other, tmp_path)
    assert "steps" not in str(caught.value)
    renamed = replace(exemplars, captions=("a dog <act>", *exemplars.captions[1:]))
    with pytest.raises(ConfigError, match=r"other settings: captions"):
        train(make_method(config, backbone, space, encoder), backbone, renamed, config, tmp_path)
    smaller = ActionSpace.build(
        backbone.token_tables(), PHRASES, rank=2, model_id=backbone.model_id, tokenizer_hash=backbone.tokenizer_hash
    )
    with pytest.raises(ConfigError, match=r"parts\.space"):
        train(make_method(config, backbone, smaller, encoder), backbone, exemplars, config, tmp_path)


LONG = "and a robot in the city with a dog in the park of the moon with a cat in a red dress"


@BOTH
def test_captions_that_the_model_cannot_read_are_told_before_anything_is_done(
    config: LearnConfig, backbone: Backbone, space: ActionSpace, tmp_path: Path
) -> None:
    exemplars_in(tmp_path / "pictures")
    for name in ("0", "2"):
        (tmp_path / "pictures" / f"{name}.txt").write_text(f"{LONG} {LONG} <act>")
    with pytest.raises(DataError, match=r"captions: 2 problems: \(1\) 0\.png: .* \(2\) 2\.png: .* puts <act> beyond"):
        learn(tmp_path / "pictures", config, tmp_path / "run", backbone=backbone, space=space)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@BOTH
def test_a_caption_that_is_cut_is_told_once(
    config: LearnConfig, backbone: Backbone, space: ActionSpace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exemplars_in(tmp_path / "pictures")
    (tmp_path / "pictures" / "0.txt").write_text(f"a robot <act> {LONG} {LONG}")
    config = replace(config, steps=2)
    learn(tmp_path / "pictures", config, tmp_path / "run", backbone=backbone, space=space)
    assert [record.getMessage().count("cut: ") for record in caplog.records] == [1]


def test_a_run_goes_on_when_the_folder_of_the_model_was_renamed(exemplars: Exemplars, tmp_path: Path) -> None:
    config = replace(INVERSION, steps=1)
    for name, done in (("tiny@0", False), ("renamed@0", True)):
        backbone = StableDiffusion(tiny_sd(), name)
        result = train(TextualInversion(3, 5e-3), backbone, exemplars, config, tmp_path)
        assert result.already_done is done
    with pytest.raises(ConfigError, match=r"backbone\.denoiser \('0' there, '1' now\)"):
        train(TextualInversion(3, 5e-3), StableDiffusion(tiny_sd(), "tiny@1"), exemplars, config, tmp_path)


def test_folders_that_are_not_runs_are_left_alone(backbone: Backbone, exemplars: Exemplars, tmp_path: Path) -> None:
    def attempt(folder: Path) -> None:
        train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, folder)

    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        attempt(foreign)
    (foreign / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(DataError, match="not of a twinact run"):
        attempt(foreign)
    (foreign / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        attempt(foreign)
    with pytest.raises(DataError, match="is a file"):
        attempt(foreign / "chapter.tex")
    assert sorted(path.name for path in foreign.iterdir()) == ["chapter.tex", "config.json"]


@pytest.mark.parametrize("bad_step", [1, 4])
def test_a_loss_that_is_not_finite_stops_without_export(
    bad_step: int, backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    class Diverging(TextualInversion):
        calls = 0

        def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
            self.calls += 1
            terms = super().loss(backbone, batch, generator)
            factor = math.inf if self.calls == bad_step else 1.0
            return {**terms, "loss": terms["loss"] * factor}

    kept = "no checkpoint yet" if bad_step == 1 else "step 2 is good"
    with pytest.raises(TwinactError, match=rf"^step {bad_step}: loss is inf.*{kept}"):
        train(Diverging(3, 5e-3), backbone, exemplars, INVERSION, tmp_path)
    assert not (tmp_path / "leap.action.safetensors").exists()
    assert [line["step"] for line in log_of(tmp_path)] == list(range(1, bad_step))
    if bad_step > 1:
        assert all(bool(tensor.isfinite().all()) for tensor in last_checkpoint(tmp_path).values())


def test_a_gradient_that_is_not_finite_stops_although_the_loss_is(
    backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    class Cornered(TextualInversion):
        def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
            terms = super().loss(backbone, batch, generator)
            return {**terms, "loss": terms["loss"] + (0 * self.vectors[0]).square().sum().sqrt()}  # slope 0 / 0 at 0

    with pytest.raises(TwinactError, match=r"^step 1: gradient norm is nan"):
        train(Cornered(3, 5e-3), backbone, exemplars, INVERSION, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
