"""What all commands have: examples, settings from outside the command line, quiet, completion; and what alone says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from commands import done, invoke, refused
from twinact import ACTOR_PLACEHOLDER, PLACEHOLDER
from twinact.bench.examples import examples
from twinact.cli import app
from twinact.cli.command import CONFIG_FILE
from twinact.cli.examples import EXAMPLES, FIRST
from twinact.configs import LearnConfig

# Minutes, or another machine; tests of their own run them.
ELSEWHERE = {
    "demo", "nano train", "nano evaluate", "bench tune", "bench run", "bench report", "world gallery", "pull", "app",
}  # fmt: skip
COMMANDS = typer.main.get_command(app)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(group: object, path: tuple[str, ...] = ()) -> set[str]:
    inner = getattr(group, "commands", None)
    return {" ".join(path)} if inner is None else {n for k, one in inner.items() for n in names(one, (*path, k))}


def config(*arguments: str) -> dict[str, tuple[str, str]]:
    """Value and origin of each option, as --print-config tells them."""
    lines = done(*arguments, "--print-config").stdout.splitlines()
    rows = [re.fullmatch(r"(\w+) = (.*)  # (.*)", line) for line in lines if not line.startswith("# ")]
    return {row[1]: (row[2], row[3]) for row in rows if row is not None}


def test_alone_it_says_what_to_do_first() -> None:
    assert done().stdout == FIRST
    for line in re.findall(r"^  (twinact .*?)(?:  .*)?$", FIRST, flags=re.MULTILINE):
        assert shlex.split(line)[1] in COMMANDS.commands


@pytest.mark.slow
def test_every_command_has_examples_in_its_help() -> None:
    assert names(COMMANDS) == set(EXAMPLES)
    for name, lines in EXAMPLES.items():
        told = done(*name.split(), "--help").stdout
        assert lines and all(f"  {line}\n" in told for line in lines), name
        assert all(line.startswith(f"twinact {name} ") or line == f"twinact {name}" for line in lines)


def test_values_come_from_the_nearest_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr("typer.get_app_dir", lambda name: str(home))
    command = ("learn", "leap")
    assert config(*command)["steps"] == (str(LearnConfig.steps), "default")
    (home / CONFIG_FILE).write_text("steps = 1\nseed = 1\nslots = 1\nbatch_size = 1\n[learn]\nsteps = 2\n")
    assert config(*command)["steps"] == ("2", str(home / CONFIG_FILE))
    Path(CONFIG_FILE).write_text("steps = 3\nseed = 3\n[learn]\nsteps = 4\n[learn.inner]\n")
    assert "unknown setting 'inner'" in refused(*command, code=2)
    Path(CONFIG_FILE).write_text("steps = 3\nseed = 3\n[learn]\nsteps = 4\n[space.build]\nslots = 7\n")
    assert config(*command)["steps"] == ("4", CONFIG_FILE)
    assert config(*command)["slots"] == ("1", str(home / CONFIG_FILE))
    assert config("space", "build", "--out", "x")["slots"] == ("7", CONFIG_FILE)
    monkeypatch.setenv("TWINACT_STEPS", "5")
    assert config(*command)["steps"] == ("5", "environment TWINACT_STEPS")
    monkeypatch.setenv("TWINACT_LEARN_STEPS", "6")
    assert config(*command)["steps"] == ("6", "environment TWINACT_LEARN_STEPS")
    assert config(*command, "--steps", "7")["steps"] == ("7", "command line")
    assert config(*command)["seed"] == ("3", CONFIG_FILE)


def test_kinds_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(CONFIG_FILE).write_text('[generate]\nprompt = ["a <act>", "b <act>"]\njson = true\nguidance = 3\n')
    told = config("generate", "x.action.safetensors")
    assert told["prompt"] == ('["a <act>", "b <act>"]', CONFIG_FILE)
    assert told["json"] == ("true", CONFIG_FILE) and told["guidance"] == ("3.0", CONFIG_FILE)
    monkeypatch.setenv("TWINACT_GENERATE_PROMPT", "one prompt <act>")
    monkeypatch.setenv("TWINACT_JSON", "0")
    told = config("generate", "x.action.safetensors")
    assert told["prompt"][0] == '["one prompt <act>"]' and told["json"][0] == "false"
    monkeypatch.setenv("TWINACT_GENERATE_COUNT", "many")
    result = invoke("generate", "x.action.safetensors")
    assert result.exit_code == 2 and "'--count'" in result.stderr


def test_what_is_printed_can_be_a_settings_file() -> None:
    printed = done("learn", "leap", "--steps", "12", "--schedule", "constant", "--print-config").stdout
    Path(CONFIG_FILE).write_text(f"[learn]\n{printed}")
    told = config("learn", "leap")
    assert (told["steps"], told["schedule"]) == (("12", CONFIG_FILE), ('"constant"', CONFIG_FILE))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("step = 3", "unknown setting 'step'; did you mean 'steps'?"),
        ("[learn]\ncount = 3", "unknown setting 'count'"),  # of generate
        ("[lern]\nsteps = 3", "did you mean 'learn'"),
        ("steps = ", "cannot be read"),
        (f"x = {'[' * 100_000}", "cannot be read"),
        ("[learn]\nsteps = true", "setting 'steps' cannot be 'True'"),
        ("[learn]\nout = [1]", "setting 'out' cannot be '[1]'"),
        ("[learn]\nsteps = {a = 1}", "setting 'steps' cannot be"),
        ("[learn]\njson = 3", "setting 'json' cannot be '3'"),
        ("learn = 3", "'learn' is '3' and a command; write its settings below [learn]"),
    ],
)
def test_settings_that_cannot_be_used(content: str, told: str) -> None:
    Path(CONFIG_FILE).write_text(content)
    assert told in refused("learn", "leap", code=2)
    assert done("learn", "--help").stdout  # which still helps


def test_quiet_says_results_and_errors_only(model: Path) -> None:
    Path("phrases.txt").write_text("# Body\njumping\nwith a cat\n")
    command = ("space", "build", "--model", model, "--phrases", "phrases.txt", "--no-poses")
    result = done(*command, "--out", "x", "--quiet")
    assert (result.stdout, result.stderr) == ("x.space.safetensors\n", "")
    assert done(*command, "--out", "y").stderr.startswith("opening model")
    assert invoke(*command, "--out", "x", "-q").stderr.startswith("error: ")


@pytest.mark.slow
def test_files_that_were_written_come_as_a_document(model: Path) -> None:
    Path("phrases.txt").write_text("# Body\njumping\nwith a cat\n")
    command = ("space", "build", "--model", model, "--phrases", "phrases.txt", "--no-poses", "--out", "x", "--json")
    assert json.loads(done(*command).stdout) == {"schema_version": 1, "files": ["x.space.safetensors"]}
    result = invoke(*command)  # it is there
    assert (result.exit_code, result.stdout) == (1, "")
    for name in EXAMPLES:
        assert "--json" in done(*name.split(), "--help").stdout, name


@pytest.mark.slow
def test_shells_complete_commands() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "COMP_WORDS": "twinact expl",
        "COMP_CWORD": "1",
    }
    asked = {**environment, "_TWINACT_COMPLETE": "complete_bash"}
    told = subprocess.run([sys.executable, "-m", "twinact"], env=asked, capture_output=True, text=True)
    assert told.stdout.split() == ["explain"], told.stderr
    # Otherwise typer asks who the parent is, which is no shell where tests run in the background.
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    shown = subprocess.run(
        [sys.executable, "-m", "twinact", "--show-completion", "bash"], env=environment, capture_output=True, text=True
    )
    assert "_TWINACT_COMPLETE=complete_bash" in shown.stdout, shown.stderr


def test_placeholders_are_letters_only() -> None:
    """Language models split digits into common tokens, and tools that tokenise prompts would meet them."""
    assert all(re.fullmatch(r"<[a-z]+>", one) for one in (PLACEHOLDER, ACTOR_PLACEHOLDER))


@pytest.mark.slow  # learns a few steps and draws, on nano
def test_the_examples_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    examples()["drawn: archer"](Path("leap"), 128)
    monkeypatch.setenv("TWINACT_LEARN_START", "jumping")  # looking for one takes a minute
    for variable in ("LEARN_STEPS", "REFINE_STEPS", "GENERATE_STEPS", "GENERATE_COUNT"):
        monkeypatch.setenv(f"TWINACT_{variable}", "2")
    for name, lines in EXAMPLES.items():
        for line in lines if name not in ELSEWHERE else ():
            done(*shlex.split(line)[1:])
    assert len(list(Path("pictures").glob("*.png"))) == 4
    assert Path("sheet.png").is_file() and Path("both.action.safetensors").is_file()
