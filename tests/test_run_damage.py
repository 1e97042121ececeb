"""Damaged numbers and files of runs: what is whole is gone on from, and nothing else is said to be good."""

import json
import math
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from small import INVERSION, exemplars_in, learn
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig, RunConfig, TwinActConfig
from twinact.data.exemplars import Exemplars
from twinact.errors import CheckpointError, DataError, TwinactError
from twinact.methods import Batch
from twinact.methods.textual_inversion import TextualInversion
from twinact.runs.folder import MARKER, Checkpoint, RunFolder, settings_of
from twinact.space import ActionSpace
from twinact.storage import read_safetensors, write_safetensors
from twinact.training.loop import StepRecord
from twinact.training.loop import train as train_with_defaults

train = partial(train_with_defaults, run=RunConfig(checkpoint_every=2))


def stop_after(step: int) -> Callable[[StepRecord], None]:
    def progress(record: StepRecord) -> None:
        if record.step == step:
            raise KeyboardInterrupt

    return progress


def log_of(run: Path) -> list[dict[str, Any]]:
    """Whole lines of a run's log without their times."""
    return [{k: v for k, v in one.items() if k != "seconds"} for one in RunFolder(run, "leap").log.records()]


def last_checkpoint(run: Path) -> dict[str, Tensor]:
    return read_safetensors(max((run / "checkpoint").iterdir()), "checkpoint")[0]


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["parameters", "optimiser"])
def test_numbers_that_are_not_finite_are_never_saved(
    lost: str, backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    """And a run goes on from the last checkpoint without such, also in a folder of an earlier version."""

    class Losing(TextualInversion):
        steps = 0

        def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
            self.steps += 1
            terms = super().loss(backbone, batch, generator)
            if self.steps == 4 and lost == "parameters":
                with torch.no_grad():
                    self.vectors[0][0, 0] = math.nan
            return terms

        def state_dict(self) -> dict[str, Tensor]:
            extra = math.inf if self.steps == 4 and lost == "optimiser" else 0.0
            return {name: tensor + extra for name, tensor in super().state_dict().items()}

    with pytest.raises(TwinactError, match=r"^step 4: .*not finite any more; the checkpoint of step 2 is good"):
        train(Losing(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoint").iterdir()] == ["step-00000002.safetensors"]

    whole = train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "whole")
    folder = RunFolder(tmp_path / "run", "leap")
    bad = {name: tensor * math.nan for name, tensor in last_checkpoint(tmp_path / "run").items()}
    folder.save(Checkpoint(5, bad))
    assert folder.last_step == 2
    result = train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "run")
    assert result.resumed_from == 2 and torch.equal(result.action.vectors[0], whole.action.vectors[0])
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoint").iterdir())
    assert names == ["step-00000004.safetensors", "step-00000006.safetensors"]


@pytest.mark.parametrize("name", ["checkpoint", "previews"])
def test_nothing_is_written_or_deleted_through_a_link(name: str, tmp_path: Path) -> None:
    other, run = tmp_path / "other", tmp_path / "run"
    other.mkdir()
    run.mkdir()
    (other / "step-00000001.safetensors").write_text("mine")
    (run / name).symlink_to(other)
    MARKER.write(run, {})
    with pytest.raises(DataError, match=f"{name}' is a symbolic link"):
        RunFolder.open(run, "leap", {}, {})
    assert (other / "step-00000001.safetensors").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda log: log[:-40] + bytes([log[-40] ^ 4]) + log[-39:],
        lambda log: log + bytes(100),
        lambda log: log + b"\xff\xfe\n",
        lambda log: log + b'{"step": "x", "terms": 3}\n[]\n7\n',
        lambda log: log.replace(b'"loss": 1.', b'"loss": 9.', 1),
        lambda log: b"[" * 100_000 + b"\n" + log,
        lambda log: b"",
    ],
    ids=["flip", "zeros", "no text", "other types", "another loss", "nested", "empty"],
)
def test_a_damaged_log_never_keeps_a_run_from_going_on(
    damage: Callable[[bytes], bytes], backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    whole = train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "run", stop_after(4))
    log = tmp_path / "run" / "log.jsonl"
    before = log_of(tmp_path / "run")
    log.write_bytes(damage(log.read_bytes()))
    result = train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path / "run")
    assert torch.equal(result.action.vectors[0], whole.action.vectors[0])
    after = log_of(tmp_path / "run")
    assert [line["step"] for line in after][-2:] == [5, 6]
    assert all(line in before for line in after[:-2])  # what was damaged is left out, never changed


@pytest.mark.parametrize(
    "change",
    [
        {"rounding": 3},
        {"rounding": {"precision": "fp32", "processes_times_accumulate": "x", "compiled": False}},
        {"rounding": {}},
        {"start": ["jumping"]},
    ],
    ids=str,
)
def test_settings_of_other_types_are_refused_by_name(
    change: dict[str, Any], backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path, stop_after(2))
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    assert settings_of(tmp_path) == content["settings"]
    config.write_text(json.dumps({**content, "settings": {**content["settings"], **change}}))
    with pytest.raises(DataError, match=rf"config\.json cannot be used: .*'{next(iter(change))}'"):
        settings_of(tmp_path)
    config.write_text("[" * 100_000)
    with pytest.raises(DataError, match="cannot be read"):
        settings_of(tmp_path)


def test_a_checkpoint_that_does_not_say_its_step_is_not_used(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "leap")
    header = {"kind": "checkpoint", "version": 1, "step": "4"}
    write_safetensors(tmp_path / "checkpoint" / "step-00000004.safetensors", {"method/x": torch.ones(1)}, header)
    with pytest.raises(CheckpointError, match="'step' is '4', expected int"):
        folder.load()


@pytest.mark.parametrize("change", [lambda t: t.new_zeros(0), lambda t: t[None], lambda t: t.flatten()[:1]])
@pytest.mark.parametrize("key", ["exp_avg_sq", "step"])
def test_a_checkpoint_of_another_optimiser_is_told(
    key: str, change: Callable[[Tensor], Tensor], backbone: Backbone, exemplars: Exemplars, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path, stop_after(2))
    tensors = last_checkpoint(tmp_path)
    name = f"optimizer/0/{key}"
    changed = change(tensors[name])
    if changed.shape == tensors[name].shape:
        changed = changed[None]
    RunFolder(tmp_path, "leap").save(Checkpoint(2, tensors | {name: changed}))
    with pytest.raises(CheckpointError, match=f"checkpoint does not fit the method: {name} has shape"):
        train(TextualInversion(3, 5e-3), backbone, exemplars, INVERSION, tmp_path)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with something wrong: flipped, cut, doubled, emptied, or JSON of another kind."""
    place = rng.randrange(len(data) + 1)
    flipped = bytearray(data or b"x")
    flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    other = rng.choice(
        [b"[]", b"{}", b"null", b"[" * 100_000, b'{"kind": "twinact-run", "version": 1, "settings": {}}']
    )
    return rng.choice(
        [bytes(flipped), data[:place], data + bytes(100), b"", data[:place] + b"\xff" + data[place:], other]
    )


@pytest.mark.slow
def test_whatever_is_damaged_in_its_folders_a_run_goes_on_to_the_same_bits_or_says_why_not(
    backbone: Backbone, space: ActionSpace, tmp_path: Path
) -> None:
    """A glance; `make stress` damages 500 run folders, and in more ways."""
    exemplars_in(tmp_path / "leap")
    (tmp_path / "leap" / "0.txt").write_text("a robot <act>")
    (tmp_path / "leap" / "captions.json").write_text('{"1.png": "a cat <act>"}')
    config = LearnConfig(
        name="leap", method=TwinActConfig(similarity_weight=0.0), steps=4, batch_size=2, start="jumping"
    )
    options: dict[str, Any] = {"backbone": backbone, "space": space}
    options["run"] = RunConfig(checkpoint_every=1, preview_every=4)
    whole = learn(tmp_path / "leap", config, tmp_path / "whole", **options).action_path.read_bytes()

    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "leap", config, tmp_path / "half", progress=stop, **options)
    rng = random.Random(11)
    told = 0
    for index in range(12):
        run, pictures = tmp_path / f"run{index}", tmp_path / f"leap{index}"
        shutil.copytree(tmp_path / ("half" if index % 4 else "whole"), run)
        shutil.copytree(tmp_path / "leap", pictures)
        files = sorted(path for folder in (run, pictures) for path in folder.rglob("*") if path.is_file())
        damaged = rng.choice(files)
        damaged.write_bytes(mutated(damaged.read_bytes(), rng))
        try:
            assert learn(pictures, config, run, **options).action_path.read_bytes() == whole, damaged
        except TwinactError:
            told += 1
    assert 0 < told < 12
