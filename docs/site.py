"""What the site needs besides the pages: README as its first page, and the files that pages link to outside docs/."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)")
_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")


def on_files(files: Files, config: Any) -> Files:
    """Adds README, and what it and other pages link to outside of docs/."""
    files.append(_added(config, "index.md", ROOT / "README.md"))
    targets = {name: ROOT / name for name in _PAGES}
    sources = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "docs").glob("*.md")}
    for name, path in {"README.md": ROOT / "README.md", **sources, **targets}.items():
        for link in _LINK.finditer(path.read_text(encoding="utf-8")):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link[2]))
            if not target.startswith("docs/") and (ROOT / target).is_file() and target != "README.md":
                targets[target] = ROOT / target
    for name, path in targets.items():
        files.append(_added(config, _outside(name), path))
    return files


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Turns links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    origin = "" if here == "index.md" else "docs/"
    if here.startswith("outside/"):
        origin = posixpath.dirname(here.removeprefix("outside/"))
        origin = f"{origin}/" if origin else ""

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(origin, link[2]))
        if target == "README.md":
            place = "index.md"
        elif target.startswith("docs/"):
            place = target.removeprefix("docs/")
        else:
            place = _outside(target)
        return link[1] + posixpath.relpath(place, posixpath.dirname(here) or ".")

    return _LINK.sub(moved, markdown)


def _outside(name: str) -> str:
    # A browser shows a text file and offers to save others.
    return f"outside/{name}.txt" if name.endswith((".py", ".sh", ".cff")) else f"outside/{name}"


def _added(config: Any, name: str, path: Path) -> File:
    return File.generated(config, name, abs_src_path=str(path))
