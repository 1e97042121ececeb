"""README and docs: commands can be given, shares with intervals stand in results files, links lead somewhere."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from commands import done, invoke
from single_files import write_single_file
from small import exemplars_in
from twinact.action import Action
from twinact.backbones import model_id, quiet
from twinact.backbones.shipped import model_dir
from twinact.bench.examples import examples
from twinact.cli import app
from twinact.phrases import load_phrases
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.world.bodies import ACTORS
from twinact.world.light import LIGHTS
from twinact.world.places import PLACES
from twinact.world.splits import CUSTOM_ACTIONS
from twinact.world.things import THINGS

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
COMMANDS = typer.main.get_command(app)


def lines_of(page: str) -> Iterator[str]:
    """Commands that a page gives in blocks, each in one line."""
    joined = PAGES[page].replace("\\\n", " ")
    for line in re.findall(r"^ {4}(?:\S+ )*?((?:twinact|python|make|pip|accelerate) .*)$", joined, flags=re.MULTILINE):
        yield line.partition("  # ")[0].strip()


def options_of(group: Any, path: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """Options of every command, by its name."""
    found: dict[str, set[str]] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= options_of(command, (*path, name))
        else:
            found[" ".join((*path, name))] = {
                option for one in command.params for option in (*one.opts, *one.secondary_opts)
            } | {"--help"}
    return found


OPTIONS = options_of(COMMANDS)
# Of git, accelerate and benchmarks.
OF_OTHERS = {"--depth", "--mixed_precision", "--num_processes", "--cpu", "--only", "--size", "--work"}


GIVEN = [(page, line) for page in PAGES for line in lines_of(page)]
OF_TWINACT = [(page, line) for page, line in GIVEN if re.search(r"\btwinact [a-z]", line)]


def parsed(line: str) -> list[str]:
    """The words of a command of twinact, after making sure that the command line takes them."""
    words = shlex.split(line)
    words = words[words.index("twinact") + 1 :]
    group, context, rest = COMMANDS, COMMANDS.make_context("twinact", list(words)), words
    while hasattr(group, "commands"):
        name, command, rest = group.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)
        group = command
    return words


@pytest.mark.parametrize(("page", "line"), OF_TWINACT, ids=[line[:40] for _, line in OF_TWINACT])
def test_commands_of_twinact_are_ones(page: str, line: str) -> None:
    assert parsed(line)


def test_there_are_commands_to_look_at() -> None:
    assert len(OF_TWINACT) >= 10 and {page for page, _ in OF_TWINACT} >= {"README.md", "running.md", "other_tools.md"}


def test_other_commands_name_what_there_is() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page, line in GIVEN:
        first, *words = shlex.split(line)
        if first == "make":
            assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in words), (page, line)
        elif first == "python" and words[0] != "-m":
            assert (ROOT / words[0]).is_file(), (page, line)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_that_are_mentioned_exist(page: str) -> None:
    prose = re.sub(r"```.*?```|^ {4}.*$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    every = {option for options in OPTIONS.values() for option in options} | OF_OTHERS
    for text in (span for span in re.findall(r"`([^`]+)`", prose) if span.startswith(("twinact ", "--"))):
        words = text.split()
        names = (" ".join(words[1:3]), words[1] if len(words) > 1 else "")
        command = next((name for name in names if name in OPTIONS), None) if words[0] == "twinact" else None
        assert words[0] != "twinact" or command is not None, text
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= (every if command is None else OPTIONS[command]), text


def test_messages_that_are_explained_are_ones() -> None:
    """What the page of troubles quotes stands in the code, up to what a message fills in."""
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    quoted = re.findall(r'^\| (?:.*?, )?"([^"]+)"', PAGES["troubleshooting.md"], flags=re.MULTILINE)
    assert len(quoted) >= 6
    for message in quoted:
        parts = [part.strip() for part in message.split("...") if part.strip()]
        assert all(part in code for part in parts), message


@pytest.mark.parametrize("page", PAGES)
def test_placeholders_are_code(page: str) -> None:
    """Elsewhere a browser takes them for tags, and shows nothing."""
    prose = re.sub(r"```.*?```|^ {4,}.*$|`[^`]+`", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"<(?:act|actor|word|name|trigger)>", prose)


def _shares(content: Any) -> Iterator[tuple[int, int, int]]:
    """Every share, or mean of shares, with its interval in a results file, in per cent."""
    for name in ("share", "mean"):
        if isinstance(content, dict) and content.get(name) is not None and "low" in content:
            yield tuple(round(100 * content[key] + 1e-9) for key in (name, "low", "high"))  # type: ignore[misc]
    for inner in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _shares(inner)


def test_shares_with_intervals_stand_in_results_files() -> None:
    results = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "benchmarks/results").glob("*.json")]
    measured = {triple for content in results for triple in _shares(content)}
    told = 0
    for page, text in PAGES.items():
        for share, low, high in re.findall(r"(\d+) % \[(\d+), (\d+)\]", text):
            told += 1
            near = {(int(share) + a, int(low) + b, int(high) + c) for a in (0, 1) for b in (0, 1) for c in (0, 1)}
            assert near & measured, f"{page}: {share} % [{low}, {high}] stands in no results file"
    assert told > 40


def test_the_table_of_the_stress_test_is_that_of_its_results() -> None:
    results = json.loads((ROOT / "benchmarks/results/stress.json").read_text(encoding="utf-8"))["suites"]
    rows = re.findall(
        r"^\| ([a-z ]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", PAGES["reliability.md"], re.MULTILINE
    )
    told = {name: tuple(map(int, counts)) for name, *counts in rows}
    keys = ("cases", "refused", "same", "used", "failed")
    assert told == {name: tuple(row[key] for key in keys) for name, row in results.items()}
    kills = results["kills"]
    assert f"{kills['kills']} SIGKILLs, {kills['inside saves']} of them inside saves" in PAGES["reliability.md"]


def test_what_is_told_of_the_head_is_what_was_measured() -> None:
    found = json.loads((ROOT / "benchmarks/results/feature_head.json").read_text(encoding="utf-8"))
    text = " ".join(PAGES["space.md"].partition("## A head that reads")[2].split())
    taught, head = found["head and reader, same estimate"], found["head and finished"]
    own = found["own reader and finished"]
    cosines = found["cosine of gradients, head and reader"]
    for told in (
        f"taught by {found['drawings taught']:,} drawings",
        f"correlation of {taught['correlation']:g} (limbs within {taught['median angle']:g}°",
        f"in {found['finished drawings']} finished drawings it is {head['median angle']:g}° away",
        f"away, at a correlation of {head['correlation']:g}; nano's own reader",
        f"at the same step {own['median angle']:g}°, at {own['correlation']:g}",
        f"cosine is {cosines['median']:.2f} in the median of eight phrases, and {cosines['least']:.2f} in the least",
    ):
        assert told in text, told
    assert "takes a sixteenth" in text and round(found["time of a read, head is 1"]["decoding and ViTPose"]) == 16


def test_counts_of_the_world_are_right() -> None:
    known = ActionSpace.load(model_dir() / SPACE_FILE)
    counts = {"actors": len(ACTORS), "places": len(PLACES), "things": len(THINGS), "lights": len(LIGHTS)}
    counts |= {"phrases with joint angles": len(load_phrases()), "action phrases": len(load_phrases())}
    counts |= {"test actions held out": len(CUSTOM_ACTIONS), "phrases that it can draw": len(known.phrases)}
    text = " ".join(PAGES["README.md"].split())
    for what, count in counts.items():
        (told,) = set(re.findall(rf"([\d,]+) {what}\b", text))
        assert int(told) == count, what


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGES[page]):
        assert (folder / target).exists(), target


# Commands that no test of this file runs, and why.
RUN_ELSEWHERE = {
    "--cluster ray": "test_many.py starts a cluster",
    "nano train": "hours; test_nano_training.py trains a small one",
    "twinact bench": "minutes to weeks; test_bench.py runs small ones",
    "twinact app": "it serves until it is stopped; tests of the page open it",
    "twinact pull": "test_hub.py pulls from a server of its own",
    "--reader vitpose": "its weights are downloaded; test_intent.py builds a space with a small one",
    "mine.space.safetensors": "made by the line before it; test_intent.py learns in such a space",
    "leap-of-anna": "the action must know its pose; test_intent.py refines one for an actor",
    "--install-completion": "it changes the shell; test_cli_settings.py completes",
}
# On which model the commands of a page run: one that knows all words and is small, or nano, whose poses are known.
SMALL = ("README.md", "running.md", "other_tools.md")
ON_NANO = ("start.md", "command_line.md", "sharing.md", "photographs.md")


def test_every_command_is_run_by_a_test() -> None:
    for page, line in OF_TWINACT:
        assert page in (*SMALL, *ON_NANO) or any(part in line for part in RUN_ELSEWHERE), (page, line)


def run_all(page: str) -> None:
    """Run the commands of a page one after another, with the fewest steps where they do not say how many."""
    for line in [line for one, line in OF_TWINACT if one == page]:
        if any(part in line for part in RUN_ELSEWHERE):
            continue
        result = invoke(*parsed(line))
        # Nano's text encoder is of no width that another program knows.
        assert result.exit_code == 0 or (result.exit_code == 1 and "--for" in line), (line, result.stderr)


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which commands that do not say how many steps they take make two, and look for no start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWINACT_LEARN_START", "jumping")
    for variable in ("LEARN_STEPS", "REFINE_STEPS", "GENERATE_STEPS"):
        monkeypatch.setenv(f"TWINACT_{variable}", "2")
    return tmp_path


@pytest.mark.slow  # learns and draws a few steps, at toy size
@pytest.mark.parametrize("page", SMALL)
def test_commands_can_be_run_at_toy_size(
    page: str, toy_nano: Path, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("leap", "anna", "photos/leap", "photos/kick"):
        exemplars_in(ground / folder)
    (ground / "path/to").mkdir(parents=True)
    for name in ("path/to/stable-diffusion", "sdxl-folder", "MODEL"):
        (ground / name).symlink_to(toy_nano)
    checkpoints = ground / "ComfyUI/models/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "dream").symlink_to(toy_nano)  # the configs for the file beside it
    monkeypatch.setenv("XDG_CACHE_HOME", str(ground / "cache"))
    with quiet():
        write_single_file(StableDiffusionPipeline.from_pretrained(toy_nano), checkpoints / "dream.safetensors")
    action = Action("leap", [torch.rand(2, 32)], model_id(toy_nano))
    action.save(ground / "leap.action.safetensors")
    save_file({"emb_params": torch.rand(1, 32)}, ground / "anna.safetensors")
    run_all(page)


@pytest.mark.slow  # the same with the shipped nano
@pytest.mark.parametrize("page", ON_NANO)
def test_commands_can_be_run_on_nano(page: str, ground: Path) -> None:
    examples()["drawn: archer"](ground / "leap", 128)
    if page in ("command_line.md", "sharing.md"):  # which speak of what is there already
        done("learn", "leap")
        done("export", "runs/leap/leap.action.safetensors")
        done("generate", "runs/leap/leap.action.safetensors", "--prompt", "a panda <act>")
    run_all(page)


@pytest.mark.slow  # as above, in Python
def test_the_python_of_the_readme_can_be_run(toy_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exemplars_in(tmp_path / "leap")
    (lines,) = re.findall(r"```python\n(.*?)```", PAGES["README.md"], flags=re.DOTALL)
    small = lines.replace('"nano"', repr(str(toy_nano))).replace('name="leap"', 'name="leap", steps=2')
    found: dict[str, Any] = {}
    exec(small, found)
    assert [picture.size for picture in found["pictures"]] == [(32, 32)]
