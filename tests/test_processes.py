"""Several processes that share the pictures of each step, as on several GPUs."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fresh import launch
from small import INVERSION, exemplars_in, learn_small, mask_in
from twinact.action import Action
from twinact.configs import LearnConfig, RunConfig, TwinActConfig
from twinact.errors import DataError, TwinactError
from twinact.training.processes import Processes, this_process

ODD = replace(INVERSION, batch_size=5)
WITH_LORA = replace(INVERSION, method=TwinActConfig(similarity_weight=0.0), lora_rank=2)


def learn_and_note(exemplars: Path, run: Path, config: LearnConfig, how: RunConfig) -> None:
    """What every process of a run does; each notes what it was given back."""
    result = learn_small(exemplars, run, config, how)
    again = learn_small(exemplars, run, config, how)
    assert again.already_done and torch.equal(again.action.vectors[0], result.action.vectors[0])
    (run.parent / f"seen-{this_process().index}").write_text(f"{result.action_path} {result.terms['loss']}")


def agree(folder: Path) -> None:
    """The collective calls, with what goes wrong in one process only."""
    group = this_process()
    rows = group.gather(torch.tensor([float(group.index), 7.0]))
    assert rows.tolist() == [[0.0, 7.0], [1.0, 7.0]]
    assert group.any(group.index == 1) and not group.any(False)
    assert group.on_main(lambda: f"from {group.index}") == "from 0"
    own = group.is_main
    with pytest.raises(DataError if own else TwinactError, match="^no disk" if own else "main process failed: no disk"):
        group.on_main(fail)
    (folder / f"agreed-{group.index}").touch()


def fail() -> None:
    raise DataError("no disk")


def finished(count: int, *arguments: object) -> None:
    """Run processes to their end, which must be good."""
    processes = launch(count, *arguments)  # type: ignore[arg-type]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


def test_one_process_needs_no_group() -> None:
    assert this_process() == Processes(0, 1, None)


@pytest.mark.slow
def test_processes_agree(tmp_path: Path) -> None:
    finished(2, agree, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("config", [INVERSION, ODD, WITH_LORA], ids=["even", "odd-masked", "TwinAct and LoRA"])
def test_two_processes_give_what_one_gives(config: LearnConfig, tmp_path: Path) -> None:
    """The bits of one process that accumulates twice; up to rounding what one process gives with the whole batch."""
    exemplars_in(tmp_path / "exemplars")
    if config is ODD:
        mask_in(tmp_path / "exemplars")
    finished(2, learn_and_note, tmp_path / "exemplars", tmp_path / "two", config, RunConfig(checkpoint_every=2))
    seen = [(tmp_path / f"seen-{index}").read_text() for index in range(2)]
    assert seen[0] == seen[1] and "leap.action.safetensors" in seen[0]
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == config.steps

    parts = learn_small(tmp_path / "exemplars", tmp_path / "parts", config, RunConfig(accumulate=2))
    assert (tmp_path / "two" / "leap.action.safetensors").read_bytes() == parts.action_path.read_bytes()
    whole = learn_small(tmp_path / "exemplars", tmp_path / "whole", config).action
    two = Action.load(tmp_path / "two" / "leap.action.safetensors")
    torch.testing.assert_close(two.vectors[0], whole.vectors[0], rtol=1e-4, atol=1e-6)
    assert two.lora.keys() == whole.lora.keys() and bool(two.lora) is (config.lora_rank > 0)


@pytest.mark.slow
def test_accelerate_launch_learns_and_speaks_once(tmp_path: Path) -> None:
    from small import tiny_sd

    tiny_sd().save_pretrained(tmp_path / "model")
    exemplars_in(tmp_path / "leap")
    learn = ["learn", tmp_path / "leap", "--model", tmp_path / "model", "--method", "textual-inversion", "--steps", "4"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines"]
    launcher += ["1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m"]

    def done(before: list[str], out: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [*before, "twinact", *learn, "--out", tmp_path / out, *options]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)
        assert result.returncode == 0, result.stderr
        return result

    told = done(launcher, "two")
    assert told.stdout.splitlines() == [str(tmp_path / "two" / "leap.action.safetensors")]
    assert told.stderr.count("next: twinact generate") == 1
    done([sys.executable, "-m"], "parts", "--accumulate", "2")
    two, parts = (Action.load(tmp_path / run / "leap.action.safetensors").vectors[0] for run in ("two", "parts"))
    # Not to the bit: the launcher chooses the number of threads, which decides the order of sums within a process.
    torch.testing.assert_close(two, parts, rtol=1e-4, atol=1e-6)
