"""The cases of `stress.py` in which a file is damaged: which one, which command meets it, and what may come of it."""

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from damages import flip, misplace, rewrite, spoil
from faults import Need, Outcome, command, run
from stress_ground import ACTION, FAMILIES, Ground, Task

_MINE = b"somebody else's"
# What is told where a model's own files changed, which are those of another model then; its pictures are its own.
_ANOTHER_MODEL = "is another model with the same text encoders (they differ in: "


@dataclass(frozen=True)
class Verdict:
    """What became of a case: "refused", "same", "used" or "failed", in words, what it took, and what it did."""

    state: str
    told: str
    need: Need
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A kind of case: how many at full size, and what runs one in an empty folder, with a generator of its own."""

    cases: int
    run: Callable[[Ground, Path, int, random.Random], Verdict]


def meet(task: Task, folder: Path, told: str, *, compare: bool = True) -> Verdict:
    """Run a command in ``folder/work``, where some of its files are damaged, and judge what it does.

    Args:
        task: The command.
        folder: Of the case.
        told: What was damaged, and how.
        compare: Whether its result must be that of whole files; not where the damaged file says something else now.
    """
    outcome = run(lambda: command(*task.arguments), folder / "work", task.need)
    compare = compare and bool(task.result) and _ANOTHER_MODEL not in outcome.said
    problem, stranger = outcome.broken, folder / "stranger.txt"
    if not problem and stranger.exists() and stranger.read_bytes() != _MINE:
        problem = "changes a stranger's file"
    if not problem and outcome.code and "error: " not in outcome.said and "Error" not in outcome.said:
        problem = "does not say why"
    if not problem and outcome.code == 0 and compare:
        made = folder / "work" / task.result
        if not made.is_file() or made.read_bytes() != task.expected:
            problem = "gives another result without a word"
    return verdict(outcome, f"{told}: {' '.join(map(str, task.arguments[:2]))}", problem, compared=compare)


def verdict(
    outcome: Outcome, told: str, problem: str, *, compared: bool, counts: Mapping[str, int] | None = None
) -> Verdict:
    """The verdict on a command: failed where there is a problem, else by its exit code."""
    if problem:
        return Verdict("failed", f"{told}: {problem}\n{outcome.said[-1500:]}", outcome.need)
    state = "refused" if outcome.code else "same" if compared else "used"
    last = outcome.said.strip().splitlines()[-1:] if outcome.code else []
    return Verdict(state, f"{told}: {last[0][:300] if last else ''}", outcome.need, counts or {})


def run_folders(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """A file of a run that is half done, or done, and the run goes on."""
    begun = Path(shutil.copytree(ground.base / ("half" if case % 4 else "whole"), folder / "work" / "run"))
    victim = rng.choice(_files(begun))
    told, means = _damaged(victim, folder, rng)
    compare = not means or victim.suffix != ".safetensors"
    return meet(ground.tasks["learn on"], folder, f"{victim.name}, {told}", compare=compare)


def actions(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """An action file, and every command that takes one."""
    name = ("adjust", "toward", "combine", "export", "generate sd")[case % 5]
    own = ground.base / ("sd" if name == "generate sd" else "whole") / ACTION
    return _with_a_copy(ground.tasks[name], own, folder, rng)


def spaces(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """A space file, and every command that takes one."""
    name = ("show", "adjust", "toward", "combine", "learn")[case % 5]
    return _with_a_copy(ground.tasks[name], ground.base / "few.space.safetensors", folder, rng)


def captions(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """A file of captions; what is damaged and still text is another caption, and learned."""
    copy = Path(shutil.copytree(ground.base / "leap", folder / "leap"))
    victim = rng.choice([path for path in _files(copy) if path.suffix != ".png"])
    told, _ = _damaged(victim, folder, rng)
    task = ground.tasks["learn"].on(ground.base / "leap", copy)
    return meet(task, folder, f"{victim.name}, {told}", compare=False)


def options(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """A file that holds settings: those of a run, what is known of a model, or a list of phrases."""
    if case % 3 == 0:
        begun = Path(shutil.copytree(ground.base / "half", folder / "work" / "run"))
        told = rewrite(begun / "config.json", rng)
        return meet(ground.tasks["learn on"], folder, f"config.json, {told}")
    if case % 3 == 1:
        model = ground.base / "models" / "sd"
        copy = Path(shutil.copytree(model, folder / "sd"))
        told, _ = _damaged(copy / "twinact.json", folder, rng)
        return meet(ground.tasks["generate sd"].on(model, copy), folder, f"twinact.json, {told}", compare=False)
    return _with_a_copy(ground.tasks["space build"], ground.base / "phrases.txt", folder, rng, compare=False)


def models(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """A file of a model, in every family: an action of the whole one is drawn as before, or refused."""
    family = FAMILIES[case % len(FAMILIES)]
    task, victim = _with_a_model(ground, family, folder, rng)
    told, _ = _damaged(victim, folder, rng)
    return meet(task, folder, f"{victim.relative_to(folder)}, {told}")


def flips(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """One bit in a file that carries a checksum, or by whose content something is known."""
    names = ("learn on", "adjust", "toward", "import", *(f"generate {family}" for family in FAMILIES))
    name = names[case % len(names)]
    task = ground.tasks[name]
    if name == "learn on":
        victim = rng.choice(_files(Path(shutil.copytree(ground.base / "half", folder / "work" / "run"))))
    elif name.startswith("generate"):
        task, victim = _with_a_model(ground, name.split()[1], folder, rng)
    else:
        files = [path for path in task.arguments if isinstance(path, Path) and path.suffix == ".safetensors"]
        own = files[-1] if name == "toward" else files[0]
        victim = Path(shutil.copy(own, folder))
        task = task.on(own, victim)
    return meet(task, folder, f"{victim.name}, {flip(victim, rng)}")


def _with_a_copy(task: Task, own: Path, folder: Path, rng: random.Random, *, compare: bool = True) -> Verdict:
    """A command on a damaged copy of one of its files."""
    copy = Path(shutil.copy(own, folder))
    told, means = _damaged(copy, folder, rng)
    return meet(task.on(own, copy), folder, f"{own.name}, {told}", compare=compare and not means)


def _with_a_model(ground: Ground, family: str, folder: Path, rng: random.Random) -> tuple[Task, Path]:
    """The command that draws with a copy of a model, and a file of it."""
    own = ground.base / "models" / family
    copy = Path(shutil.copytree(own, folder / family))
    files = [path for path in _files(copy) if path.name != "twinact.json"]  # which may say another guidance
    return ground.tasks[f"generate {family}"].on(own, copy), rng.choice(files)


def _damaged(path: Path, folder: Path, rng: random.Random) -> tuple[str, bool]:
    """Damage a file in one way; the way, and whether the file still means something of its own."""
    stranger = folder / "stranger.txt"
    stranger.write_bytes(_MINE)
    way = rng.choice((spoil, spoil, misplace, rewrite, rewrite))
    if way is misplace:
        return misplace(path, rng, stranger), False
    return way(path, rng), way is rewrite


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


SUITES: dict[str, Suite] = {
    "run folders": Suite(500, run_folders),
    "actions": Suite(500, actions),
    "spaces": Suite(500, spaces),
    "captions": Suite(500, captions),
    "options": Suite(500, options),
    "models": Suite(500, models),
    "bit flips": Suite(600, flips),
}
