"""Whole files for `stress.py`: tiny models of every family, exemplars, a space, runs, actions and exports; and the
commands that read them, with what these give and take."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import Need, command, run

FAMILIES = ("sd", "sdxl", "sd3", "flux", "klein", "z-image", "chroma")
ACTION = "leap.action.safetensors"
_PHRASES = ("jumping", "jumping in the park", "a red dress", "in the city", "on the moon", "with a cat", "a dog")
_PROMPT = "a robot <act> in the park"
_STEPS, _STOPPED_AT = 4, 2
_NOTHING = Need()


@dataclass(frozen=True)
class Task:
    """A command on whole files.

    Attributes:
        arguments: Of the command line.
        result: File that it writes in the current folder, and that follows from its arguments; "" for none.
        need: What it takes.
        expected: Content of the result.
    """

    arguments: Sequence[str | Path]
    result: str = ""
    need: Need = _NOTHING
    expected: bytes = b""

    def on(self, own: Path, other: Path) -> "Task":
        """The same with another file or folder instead of one."""
        arguments = [other if argument == own else argument for argument in self.arguments]
        return Task(arguments, self.result, self.need, self.expected)


@dataclass(frozen=True)
class Ground:
    """The folder of whole files, and the commands by name."""

    base: Path
    tasks: dict[str, Task]


def build_ground(folder: Path) -> Ground:
    """Make the files, unless they are there, and measure the commands; everything heavy is imported from here on."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    # For the processes that are forked from this one; matplotlib writes a cache when it is first imported.
    import matplotlib.font_manager

    import families  # every family's backbone and pipeline with it
    import twinact.export.foreign
    import twinact.jobs.run

    assert all((matplotlib, families, twinact))
    base = folder / "base"
    tasks = _tasks(base)
    if not (base / "made").exists():
        shutil.rmtree(base, ignore_errors=True)
        _exemplars(base / "leap")
        (base / "phrases.txt").write_text("\n".join(["# Body", *_PHRASES]) + "\n")
        _whole(lambda: _models(base / "models"), base)
        build = tasks["space build"].arguments[:-1]
        _whole(lambda: command(*build, "few"), base)
        start = ("--space", base / "few.space.safetensors", "--start", "jumping")
        _whole(lambda: command(*_learn(base, "whole", *start)), base)
        _whole(lambda: command(*_learn(base, "half", *start), before=_die_after_saving), base)
        _whole(lambda: command(*_learn(base, "lora", "--lora-rank", "2", *start)), base)
        wave = tasks["adjust"].arguments[:-1]
        _whole(lambda: command(*wave, "wave"), base)
        _whole(lambda: command("export", base / "lora" / ACTION, "--model", base / "models" / "sd"), base)
        for family in FAMILIES:
            free = ("--method", "textual-inversion")
            arguments = _learn(base, family, *free, steps=1, family=family)
            _whole(lambda arguments=arguments: command(*arguments), base)
        (base / "made").touch()
    return Ground(base, {name: _measured(task, name, folder) for name, task in tasks.items()})


def _measured(task: Task, name: str, folder: Path) -> Task:
    place = folder / "clean"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if name == "learn on":
        shutil.copytree(folder / "base" / "half", place / "run")
    outcome = run(lambda: command(*task.arguments), place)
    assert outcome.code == 0, f"{name}: {outcome.said}"
    return Task(task.arguments, task.result, outcome.need, (place / task.result).read_bytes() if task.result else b"")


def _tasks(base: Path) -> dict[str, Task]:
    few, action, sd = base / "few.space.safetensors", base / "whole" / ACTION, base / "models" / "sd"
    start, new = ("--space", few, "--start", "jumping"), ("--space", few, "--out", "new")
    bundle = base / "exports" / "bundle" / "twa-leap-bundle.safetensors"
    run_action, new_action = f"run/{ACTION}", "new.action.safetensors"
    tasks = {
        "learn on": Task(_learn(base, "run", *start), run_action),
        "learn": Task(_learn(base, "run", *start, steps=1), run_action),
        "learn whole": Task(_learn(base, "run", "--space", few, "--lora-rank", "2", steps=8), run_action),
        "show": Task(["space", "show", few, "--phrase", "jumping", "--json"]),
        "adjust": Task(["adjust", action, "--component", "0:0", "--amount", "1", *new], new_action),
        "toward": Task(["adjust", action, "--toward", "on the moon", "--amount", "0.5", *new], new_action),
        "combine": Task(["combine", action, base / "wave.action.safetensors", *new], new_action),
        "export": Task(["export", action, "--model", sd]),
        "import": Task(["import", bundle, "--name", "new", "--model", sd, "--out", "new"], new_action),
        "space build": Task(
            ["space", "build", "--model", sd, "--phrases", base / "phrases.txt", "--out", "new"],
            "new.space.safetensors",
        ),
    }
    for family in FAMILIES:
        tasks[f"generate {family}"] = Task(
            ["generate", base / family / ACTION, "--model", base / "models" / family, "--prompt", _PROMPT,
             "--steps", "1"],
            "pictures/leap_00000_0.png",
        )  # fmt: skip
    return tasks


def _learn(base: Path, out: str, *more: str | Path, steps: int = _STEPS, family: str = "sd") -> list[str | Path]:
    return [
        "learn", base / "leap", "--out", out, "--name", "leap", "--model", base / "models" / family,
        "--steps", str(steps), "--batch-size", "2", "--checkpoint-every", "1", "--preview-every", "0", *more,
    ]  # fmt: skip


def _exemplars(folder: Path) -> None:
    """Four pictures, with each kind of caption."""
    from PIL import Image

    folder.mkdir(parents=True)
    for index, colour in enumerate(("red", "green", "blue", "yellow")):
        picture = Image.new("RGB", (48, 40), colour)
        picture.paste((250, 250, 250), (4 + 6 * index, 4, 16 + 6 * index, 28))
        picture.save(folder / f"{index}.png")
    (folder / "0.txt").write_text("a robot <act> in the red park\n")
    (folder / "1.caption").write_text("a cat <act> on the moon\n")
    (folder / "captions.json").write_text('{"2.png": "a dog <act> in the city"}\n')
    (folder / "metadata.jsonl").write_text('{"file_name": "3.png", "text": "a man <act> in a park"}\n')


def _models(folder: Path) -> None:
    import families

    for family in FAMILIES:
        families.FAMILIES[family].make().save_pretrained(folder / family)
    (folder / "sd" / "twinact.json").write_text('{"version": 1, "guidance": 4.0}\n')


def _whole(work: Callable[[], Any], base: Path) -> None:
    outcome = run(work, base)
    assert outcome.code in (0, -9), outcome.said


def _die_after_saving() -> None:
    """Let a run be killed when it is half done."""
    from twinact.runs.folder import RunFolder

    save = RunFolder.save

    def save_and_die(self: Any, checkpoint: Any) -> None:
        save(self, checkpoint)
        if checkpoint.step == _STOPPED_AT:
            os.kill(os.getpid(), 9)

    RunFolder.save = save_and_die  # type: ignore[method-assign]
