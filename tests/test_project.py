"""The package as a whole: what it brings in, what it ships, what its commands need."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from zipfile import ZipFile

import pytest
import typer
from typer.testing import CliRunner

import twinact
from twinact.backbones.shipped import model_dir
from twinact.cli import app
from twinact.configs import METHODS, LearnConfig, RunConfig

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def commands(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in group.commands.items():
        nested = isinstance(command, typer.core.TyperGroup)
        found += commands(command, (*path, name)) if nested else [(*path, name)]
    return found


def _name(requirement: str) -> str:
    """The package that a line of a requirement list asks for."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
FORBIDDEN = {"torchvision", "torchaudio", "timm"}
COMMANDS = commands(typer.main.get_command(app))


def test_torchvision_stays_out() -> None:
    names = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert not names & FORBIDDEN
    assert importlib.util.find_spec("torchvision") is None


def test_help_comes_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from twinact.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "app(['learn', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'matplotlib', 'cv2'} & sys.modules.keys()\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout


# Each command in a fork of one process, which has imported what the command line imports at once.
WATCHED = """
import io, os, sys
from twinact.cli import app
class Watch(io.StringIO):
    def write(self, text):
        text = text.decode() if isinstance(text, bytes) else text
        if text.strip():
            os.write(1, f"{'late' if 'torch' in sys.modules else 'early'}: {text.splitlines()[0]}".encode())
            os._exit(0)
        return len(text)
for command in sys.argv[1:]:
    if os.fork() == 0:
        sys.stderr = Watch()
        app(command.split(), standalone_mode=False)
    os.wait()
    os.write(1, b'\\n')
"""
SPEAKING = (
    "learn photos", "generate x.action.safetensors --prompt <act>", "export x.action.safetensors",
    "adjust x.action.safetensors --component 0:0 --amount 1 --out y", "import x.safetensors --name leap --out y",
    "combine x.action.safetensors y.action.safetensors --out z", "refine x.action.safetensors --out z",
    "space build --out y", "space show x",
    "nano train --out new", "nano evaluate", "bench run --out new", "demo --out new",
)  # fmt: skip


@pytest.mark.slow
def test_a_command_says_something_before_it_waits_for_torch(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").touch()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *SPEAKING], capture_output=True, text=True, cwd=tmp_path, env=HERE
    )
    assert done.returncode == 0, done.stderr
    said = dict(zip(SPEAKING, done.stdout.splitlines(), strict=True))
    first_words = "early: (learning|reading|opening|evaluating|preparing) "
    assert all(re.match(first_words, line) for line in said.values()), said


@pytest.mark.slow
def test_the_report_of_a_run_draws_from_data_alone() -> None:
    code = (
        "import sys, twinact.report.run_report\n"
        "heavy = {'diffusers', 'transformers', 'scipy', 'cv2', 'twinact.world', 'twinact.bench'} & sys.modules.keys()\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=HERE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.stdout


def test_commands_that_are_promised_exist() -> None:
    promised = ["learn", "generate", "adjust", "combine", "refine", "demo", "space build", "space show", "nano train"]
    assert set(promised) <= {" ".join(path) for path in COMMANDS}


def test_learn_offers_every_setting_with_its_default() -> None:
    command = typer.main.get_command(app).commands["learn"]
    offered = {parameter.name: parameter.default for parameter in command.params}
    for field in fields(LearnConfig) + fields(RunConfig):
        # The other defaults depend on the folder, the model, the machine or the method.
        if field.metadata and not field.metadata["unset"]:
            assert offered[field.name] == field.default, field.name
        assert field.name in offered
    for method in METHODS.values():  # a default would say that it was given, and it may belong to another method
        assert all(offered[field.name] is None for field in fields(method))


def test_versions_agree() -> None:
    assert PROJECT["project"]["version"] == twinact.__version__
    assert f"version: {twinact.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{twinact.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"twinact {twinact.__version__}" in CliRunner().invoke(app, ["--version"]).stdout


def test_console_script_is_there() -> None:
    assert PROJECT["project"]["scripts"] == {"twinact": "twinact.cli:main"}
    module, _, function = PROJECT["project"]["scripts"]["twinact"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_package_data_exists_and_is_shipped() -> None:
    patterns = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["artifacts"]
    for pattern in patterns:
        # Before Python 3.13 a trailing ** finds folders only.
        found = ROOT.glob(pattern + "/*" if pattern.endswith("**") else pattern)
        assert any(path.is_file() for path in found), pattern


@pytest.mark.slow
def test_the_wheel_holds_the_data(tmp_path: Path) -> None:
    """Built as for a release, so the build backend comes from the package registry."""
    build = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", "-w", tmp_path, ROOT]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {path.relative_to(ROOT / "src").as_posix() for path in model_dir().rglob("*") if path.is_file()}
    assert any(name.endswith(".safetensors") for name in shipped)
    data = {
        "twinact/app/page.css",
        "twinact/phrases/actions.txt",
        "twinact/world/meanings.tsv",
        "twinact/report/report.css",
        "twinact/report/templates/page.html.j2",
        "twinact/demo/templates/demo.html.j2",
        "twinact/bench/templates/bench.html.j2",
        "twinact/py.typed",
    }
    assert shipped | data <= set(ZipFile(wheel).namelist())


def test_torch_is_pinned_and_torchvision_forbidden() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {"torchvision==0.0.0", "torchaudio==0.0.0"} <= set(constraints)
    (pin,) = (line for line in constraints if re.match(r"torch\b", line))
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", pin)
    (needed,) = (line for line in PROJECT["project"]["dependencies"] if re.match(r"torch\b", line))
    pinned, lowest = (tuple(map(int, re.findall(r"\d+", line))) for line in (pin, needed))
    assert pinned >= lowest


def test_every_install_of_the_makefile_obeys_the_constraints() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    installs = [line for line in lines if re.search(r"\bpip3?\b.*\binstall\b", line)]
    assert installs and all(" -c constraints.txt " in line for line in installs)


def test_no_extra_asks_for_torchvision() -> None:
    """As far as requirement lists say: the extras themselves, and what the packages that are installed here ask for."""
    extras = PROJECT["project"]["optional-dependencies"]
    assert "app" in extras
    todo, seen = {_name(line) for group in extras.values() for line in group}, set()
    todo |= {_name(line) for line in PROJECT["project"]["dependencies"]}
    while todo:
        seen.add(name := todo.pop())
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed; its own name is checked
        todo |= {_name(line) for line in lines if "extra ==" not in line} - seen
    assert "torch" in seen and not seen & FORBIDDEN


def test_weights_are_small_enough_to_ship() -> None:
    files = [path for path in model_dir().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 64e6
    assert not any("_name_or_path" in path.read_text() for path in files if path.suffix == ".json")  # of a machine


def test_every_dependency_has_a_lower_bound() -> None:
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    assert all(">=" in requirement for group in groups for requirement in group)


def test_ci_runs_what_the_makefile_offers() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make lint type test" in script.read_text(encoding="utf-8")
