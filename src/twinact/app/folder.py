"""The folder that a page works in: exemplars, runs, actions and reports, found by names and never by paths.

A browser sends names. Each is looked up in a listing, or is checked as the name of an action before it becomes part of
a path; symbolic links are passed over. So nothing that a browser sends leads out of the folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twinact.configs import check_name
from twinact.errors import ConfigError, DataError
from twinact.runs.folder import MARKER
from twinact.storage import ACTION_SUFFIX

RECORD = ".page.json"
"""Lies in the folder of a run that the page began; see `twinact.app.runs`."""
AT_ONCE = "-start"
"""Added to the name of an action for what is learned of it at once."""
_NAME_LENGTH = 28 - len(AT_ONCE)


@dataclass(frozen=True)
class WorkFolder:
    """Where the page finds and puts things.

    Attributes:
        root: The folder; commands that the page shows are to be given there.
    """

    root: Path

    def exemplars(self, name: str) -> Path:
        """The folder of an action's exemplars."""
        check_name(name)
        return self.root / "exemplars" / name

    def run(self, name: str) -> Path:
        """The run folder of an action."""
        check_name(name)
        return self.root / "runs" / name

    def mixed(self, name: str) -> Path:
        """The file of an action that was mixed from others."""
        check_name(name)
        return self.root / "actions" / f"{name}{ACTION_SUFFIX}"

    def runs(self) -> list[str]:
        """Names of the runs that the page or a person began, the newest first."""
        folders = [path for path in _own(self.root / "runs", "*") if path.is_dir() and _usable(path.name)]
        begun = [path for path in folders if (path / MARKER.file).is_file() or (path / RECORD).is_file()]
        return [path.name for path in sorted(begun, key=lambda path: path.stat().st_mtime, reverse=True)]

    def actions(self) -> dict[str, Path]:
        """The action files by what the page calls them, the newest first: the name, or where it lies if it is taken."""
        files = [*_own(self.root / "runs", f"*/*{ACTION_SUFFIX}"), *_own(self.root / "actions", f"*{ACTION_SUFFIX}")]
        found: dict[str, Path] = {}
        for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
            name = path.name.removesuffix(ACTION_SUFFIX)
            found[name if name not in found else str(path.relative_to(self.root))] = path
        return found

    def action(self, label: str) -> Path:
        """The file of one of `actions`.

        Raises:
            DataError: There is none.
        """
        found = self.actions()
        if label not in found:
            raise DataError(f"action {label!r} is not in this folder; choose one of {', '.join(found) or 'none yet'}")
        return found[label]

    def reports(self) -> dict[str, Path]:
        """Reports of demos, benchmarks and runs, by where they lie."""
        files = [*_own(self.root, "*/*report*.html"), *_own(self.root, "runs/*/report.html")]
        return {str(path.relative_to(self.root)): path for path in sorted(set(files))}

    def free_name(self, wanted: str) -> str:
        """A name like the wanted one that neither exemplars nor runs nor actions have."""
        name, number = wanted[:_NAME_LENGTH], 1
        while self.exemplars(name).exists() or self.run(name).exists() or self.mixed(name).exists():
            number += 1
            name = f"{wanted[: _NAME_LENGTH - len(str(number)) - 1]}-{number}"
        return name

    def told(self, path: Path) -> str:
        """A path as commands in this folder have it."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


def _own(folder: Path, pattern: str) -> Iterator[Path]:
    """What matches a pattern and is reached without a symbolic link; hidden files are left out."""
    for path in folder.glob(pattern):
        parts = path.relative_to(folder).parts
        steps = [folder.joinpath(*parts[: i + 1]) for i in range(len(parts))]
        if not any(step.is_symlink() or step.name.startswith(".") for step in steps) and not folder.is_symlink():
            yield path


def _usable(name: str) -> bool:
    try:
        check_name(name)
    except ConfigError:
        return False
    return True
