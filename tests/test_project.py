"""The package as a whole: what it brings in, what it ships, what its commands need."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import twinact
from twinact.cli import app
from twinact.configs import LearnConfig, RunConfig

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def commands(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in group.commands.items():
        nested = isinstance(command, typer.core.TyperGroup)
        found += commands(command, (*path, name)) if nested else [(*path, name)]
    return found


COMMANDS = commands(typer.main.get_command(app))


def test_torchvision_stays_out() -> None:
    names = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert not names & {"torchvision", "torchaudio", "timm"}
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


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.stdout


def test_commands_that_are_promised_exist() -> None:
    promised = ["learn", "generate", "adjust", "combine", "demo", "space build", "space show", "nano train"]
    assert set(promised) <= {" ".join(path) for path in COMMANDS}


def test_learn_offers_every_setting_with_its_default() -> None:
    command = typer.main.get_command(app).commands["learn"]
    offered = {parameter.name: parameter.default for parameter in command.params}
    for field in fields(LearnConfig) + fields(RunConfig):
        if field.name not in ("name", "similarity_weight"):  # their defaults depend on the folder and the model
            assert offered[field.name] == field.default, field.name
        assert field.name in offered


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


def test_torch_is_pinned_and_torchvision_forbidden() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {"torchvision==0.0.0", "torchaudio==0.0.0"} <= set(constraints)


def test_every_dependency_has_a_lower_bound() -> None:
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    assert all(">=" in requirement for group in groups for requirement in group)


def test_ci_runs_what_the_makefile_offers() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make lint type test" in script.read_text(encoding="utf-8")
