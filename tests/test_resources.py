"""What is chosen for a machine where nobody said: precision, memory and parts."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from small import INVERSION, exemplars_in
from tiny import tiny_sd
from twinact.backbones import parameters
from twinact.cli import app
from twinact.configs import RunConfig
from twinact.errors import CheckpointError, ConfigError
from twinact.jobs import resources as module
from twinact.jobs.job import Job
from twinact.jobs.many import attempt
from twinact.jobs.resources import Gpu, Resources, choose_resources, resources_for, run_config

GIB = 2**30
SD15, SDXL, FLUX = 1_066_235_307, 3_468_837_447, 16_870_599_039  # benchmarks/results/full_size.json
PROMPT = "a robot <act> on the moon"


@pytest.mark.parametrize(
    ("free_gib", "numbers", "expected"),
    [
        (7.5, SD15, ("normal", 1)),
        (11, SD15, ("normal", 2)),
        (11, SDXL, ("low", 1)),
        (15, SDXL, ("low", 1)),
        (23, SDXL, ("normal", 1)),
        (79, SDXL, ("normal", 5)),
        (79, FLUX, ("low", 1)),
        (139, FLUX, ("normal", 1)),
    ],
)
def test_memory_follows_from_what_the_weights_leave_free(
    free_gib: float, numbers: int, expected: tuple[str, int]
) -> None:
    assert resources_for(Gpu(int(free_gib * GIB), True), numbers) == Resources("bf16", *expected)


def test_what_is_said_stands() -> None:
    small = Gpu(11 * GIB, False)
    assert resources_for(None, SDXL) == Resources("fp32", "normal", None)
    assert resources_for(None, SDXL, cpu_bf16=True) == Resources("bf16", "normal", None)
    assert resources_for(None, SDXL, "bf16", "low") == Resources("bf16", "low", None)
    assert resources_for(small, SDXL) == Resources("fp16", "low", 1)
    assert resources_for(small, SDXL, memory="fast") == Resources("fp16", "fast", 1)
    assert resources_for(small, SD15, "fp32", "low") == Resources("fp32", "low", 1)
    assert resources_for(small, SD15, "fp32").memory == "low" != resources_for(small, SD15).memory  # twice the weights


def test_parameters_are_counted_once_from_the_files(tmp_path: Path) -> None:
    pipeline = tiny_sd()
    whole = sum(p.numel() for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in part.parameters())
    pipeline.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    assert parameters(tmp_path) == whole
    pipeline.to(dtype=torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert parameters(tmp_path) == whole
    next((tmp_path / "vae").glob("*.safetensors")).write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="cannot be read"):
        parameters(tmp_path)


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without instructions for bfloat16."""
    monkeypatch.setattr(module, "cpu_computes_bf16", lambda: False)


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """One on which the tiny model is told to save; the work is done on the CPU."""
    monkeypatch.setattr(module, "this_gpu", lambda: Gpu(3 * parameters(model), True))


@pytest.mark.parametrize(("hardware", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_cpus_compute_in_bf16_where_they_have_it(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path, hardware: bool, chosen: str
) -> None:
    monkeypatch.setattr(module, "cpu_computes_bf16", lambda: hardware)
    assert run_config({}, model, 8) == RunConfig(precision=chosen)
    assert run_config({"precision": "fp32"}, model, 8) == RunConfig()


def test_on_the_cpu_the_rest_stays_as_it_was(plain_cpu: None, model: Path, tmp_path: Path) -> None:
    assert run_config({}, model, 8) == RunConfig()
    assert run_config({"memory": "low"}, model, 8) == RunConfig(memory="low")
    with pytest.raises(ConfigError, match="precision 'bf8'"):
        run_config({"precision": "bf8"}, model, 8)


@pytest.mark.parametrize(("precision", "told"), [(None, False), ("fp32", False), ("bf16", True), ("nf4", True)])
def test_a_precision_that_the_cpu_emulates_is_told(
    plain_cpu: None, model: Path, capsys: pytest.CaptureFixture[str], precision: str | None, told: bool
) -> None:
    choose_resources(model, precision)
    assert ("emulates what precision" in capsys.readouterr().err) == told


def test_one_picture_at_a_time_and_what_is_said_stands(small_gpu: None, model: Path, tmp_path: Path) -> None:
    assert run_config({}, model, 8) == RunConfig(precision="bf16", memory="low", accumulate=8)
    said = {"precision": "fp32", "memory": "normal", "accumulate": 2}
    assert run_config(said, model, 8) == RunConfig(**said)


@pytest.mark.parametrize(
    ("numbers", "budget", "precision", "needed", "more"),
    [(SDXL, "12", "bf16", "8.5", ""), (SDXL, "8", "int8", "5.6", ""), (2 * FLUX, "8", "nf4", "22.4", "more than may")],
)
def test_a_budget_is_told_with_what_was_chosen_and_why(
    numbers: int, budget: str, precision: str, needed: str, more: str,
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A GPU of 80 GiB and published sizes; the model itself is tiny."""
    monkeypatch.setattr(module, "this_gpu", lambda: Gpu(80 * GIB, True))
    monkeypatch.setattr(module, "parameters", lambda name: numbers)
    assert run_config({"memory": budget}, model, 8) == RunConfig(precision=precision, memory="low", accumulate=8)
    told = capsys.readouterr().err
    assert told.startswith(f"for {budget} GiB: precision {precision}, memory low, one picture at once; ")
    assert f"are about {needed} GiB" in told and (more in told) and told.count("\n") == 1
    assert ("more than may be taken" in told) is bool(more)


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    return result


def learn(model: Path, tmp_path: Path, *options: object) -> Result:
    if not (tmp_path / "leap").exists():
        exemplars_in(tmp_path / "leap")
    return invoke(
        "learn", tmp_path / "leap", "--model", model, "--method", "textual-inversion", "--steps", 2, "--batch-size", 2,
        "--out", tmp_path / "run", *options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_model_is_learned_and_drawn_with_in_less_memory(model: Path, tmp_path: Path) -> None:
    less = ("--precision", "bf16", "--memory", "low")
    result = learn(model, tmp_path, *less)
    action = result.stdout.strip()
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["rounding"]["precision"] == "bf16" and settings["rounding"]["weights"] == "bfloat16"
    drawn = ("generate", action, "--model", model, "--prompt", PROMPT, "--steps", 2, "--count", 2, "--out")
    half = invoke(*drawn, tmp_path / "half", *less).stdout.split()
    whole = invoke(*drawn, tmp_path / "whole").stdout.split()
    for first, second in zip(half, whole, strict=True):
        with Image.open(first) as spared, Image.open(second) as plain:
            assert spared.tobytes() != plain.tobytes()
            assert any('"precision": "bf16"' in str(text) for text in spared.info.values())


@pytest.mark.slow
def test_a_run_keeps_what_was_chosen_for_it(
    small_gpu: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = learn(model, tmp_path).stderr
    assert "precision bf16, memory low, at most 1 at once" in told
    rounding = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["rounding"]
    assert (rounding["precision"], rounding["processes_times_accumulate"]) == ("bf16", 2)
    monkeypatch.setattr(module, "this_gpu", lambda: None)
    assert "already done" in learn(model, tmp_path).stderr  # on a machine that would have chosen otherwise
    (tmp_path / "run" / "leap.action.safetensors").unlink()
    job = Job(exemplars=tmp_path / "leap", config=INVERSION, run_dir=tmp_path / "other", model=str(model))
    assert attempt(job).state == "learned"  # many actions choose in the same way


@pytest.mark.slow
def test_out_of_memory_while_drawing_is_one_line(
    plain_cpu: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = learn(model, tmp_path).stdout.strip()

    def fail(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("twinact.jobs.less_memory.draw", fail)

    def told(*options: str) -> list[str]:
        out = str(tmp_path / "pictures")
        result = CliRunner().invoke(
            app, ["generate", action, "--model", str(model), "--prompt", PROMPT, "--out", out, *options]
        )
        assert result.exit_code == 3
        return [line for line in result.stderr.splitlines() if "not enough memory" in line]

    lack = "drawing: the GPU has not enough memory; "
    once = f"{lack}going on with memory low, one picture at a time"
    assert told() == [once, f"error: {lack}give --precision bf16"]
    least = ("--memory", "low", "--precision", "bf16")
    last = f"error: {lack}close what else uses it, or take a machine with more"
    assert told(*least) == [last]
    assert told(*least, "--batch-size", "2") == [once, last]


@pytest.mark.slow
@pytest.mark.parametrize(("said", "precision"), [((), "bf16"), (("--precision", "bf16"), "bf16")])
def test_the_precision_of_accelerate_is_taken(
    said: tuple[str, ...], precision: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    learn(model, tmp_path, *said)
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["rounding"]["precision"] == precision


def test_a_precision_other_than_that_of_accelerate_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    result = CliRunner().invoke(app, ["learn", str(tmp_path), "--model", str(model), "--precision", "bf16"])
    assert result.exit_code == 2
    assert "precision 'bf16' differs from the 'fp16' that accelerate" in result.stderr
