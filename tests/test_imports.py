"""Imports inside the package run one way: downwards in one table."""

import ast
from collections.abc import Iterator
from pathlib import Path

import twinact

ROOT = Path(twinact.__file__).parent
# From the top to the bottom: a package or module may import those below it.
ORDER = (
    "__main__", "cli", "app", "demo", "bench", "nano", "jobs", "report", "export", "training", "runs", "methods",
    "intent", "readers", "sample", "action", "space", "data", "lora", "world", "backbones", "sheets", "phrases",
    "storage", "console", "configs", "statistics", "errors", "",
)  # fmt: skip
# The procedural world is one of many subjects: what learns on photographs knows nothing of it.
WORLD_IS_FOR = {"world", "nano", "bench", "demo", "cli"}


def imports(path: Path) -> Iterator[str]:
    """What a module imports of the package, those for type checkers and those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def subject(name: str) -> str:
    """The package or module right under `twinact` that a dotted name lies in; "" for `twinact` itself."""
    first = name.removeprefix("twinact").removeprefix(".").partition(".")[0]
    return first if (ROOT / first).is_dir() or (ROOT / f"{first}.py").is_file() else ""


def edges() -> Iterator[tuple[str, str, str]]:
    """(module, its subject, the subject that it imports), each with `twinact.` left out."""
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        for name in imports(path):
            if name == "twinact" or name.startswith("twinact."):
                yield module, subject(module), subject(name)


def test_imports_run_downwards() -> None:
    upwards = {
        (module, target)
        for module, own, target in edges()
        if own and own != target and ORDER.index(own) >= ORDER.index(target)  # the package itself offers what is above
    }
    assert not upwards


def test_only_what_makes_or_measures_nano_knows_the_world() -> None:
    assert {own for _, own, target in edges() if target == "world"} <= WORLD_IS_FOR


def test_only_what_is_about_everything_lies_at_the_top() -> None:
    loose = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
    assert loose == {"action", "console", "errors", "lora", "sample", "sheets", "statistics"}
