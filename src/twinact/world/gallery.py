"""A page of contact sheets, to see at a glance what the world can draw."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from twinact.errors import DataError
from twinact.phrases import load_phrases
from twinact.storage import atomic_write_bytes
from twinact.world.bodies import ACTORS, HELD_OUT_ACTORS
from twinact.world.draw import draw
from twinact.world.light import LIGHTS
from twinact.world.meanings import meanings
from twinact.world.places import PLACES
from twinact.world.sampling import rest_pose
from twinact.world.scene import WORLD_VERSION, Scene
from twinact.world.splits import CUSTOM_ACTIONS, exemplar_scenes
from twinact.world.things import THINGS

_MARK = "<!-- made by: twinact world gallery -->"
_PICTURE = 128
_CAPTION = 18
_COLUMNS = 8
_PHRASES_PER_HEADING = 32
_MATRIX_ACTORS, _MATRIX_PHRASES = 8, 8


@dataclass(frozen=True)
class _Sheet:
    """Pictures with their captions, row by row."""

    file: str
    title: str
    text: str
    cells: Sequence[tuple[str, Scene]]


def write_gallery(folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Draw the sheets into `folder` and write the page ``<folder>.md`` beside it; the same every time.

    Args:
        folder: New, empty, or made by this function, and then drawn anew.
        progress: Called with (pictures drawn, pictures in all) after each sheet.

    Returns:
        The page.

    Raises:
        DataError: The folder or the page holds something else, or comes to hold it, or cannot be written.
    """
    sheets = [_actors(), _places(), _things_and_light(), *_headings(), _matrix(), _custom()]
    page = folder.with_name(f"{folder.name}.md")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there - {sheet.file for sheet in sheets} or (folder.exists() and not folder.is_dir()):
        raise DataError(f"gallery folder '{folder}' holds something else; give a new or empty folder")
    of_before = page.exists()
    if of_before and not page.read_text(encoding="utf-8").startswith(_MARK):
        raise DataError(f"page '{page}' was not made by the gallery and is not replaced; move it or rename the folder")
    lines = [
        _MARK,
        "# What the world can draw",
        f"World {WORLD_VERSION}: {len(ACTORS)} actors, {len(load_phrases())} action phrases, {len(PLACES)} places.",
    ]
    drawn, count = 0, sum(len(sheet.cells) for sheet in sheets)
    for sheet in sheets:
        # What was not there is taken now: somebody else may have come in the meantime.
        atomic_write_bytes(folder / sheet.file, _jpeg(_contact_sheet(sheet.cells)), new=sheet.file not in there)
        drawn += len(sheet.cells)
        if progress is not None:
            progress(drawn, count)
        lines += [f"## {sheet.title}", sheet.text, f"![{sheet.title}]({folder.name}/{sheet.file})"]
    atomic_write_bytes(page, ("\n\n".join(lines) + "\n").encode(), new=not of_before)
    return page


def _scene(actor: str, phrase: str | None, place: str, seed: int) -> Scene:
    """A figure doing what the first meaning of a phrase says, or standing."""
    rng = np.random.default_rng([WORLD_VERSION, seed])
    pose = rest_pose(rng)
    if phrase is not None:
        pose = meanings()[phrase][0].sample(pose, rng)
    return Scene(actor, pose, place, detail_seed=seed)


def _spread(names: Sequence[str], count: int) -> list[str]:
    """`count` of the names, evenly over the list."""
    return [names[i * len(names) // count] for i in range(min(count, len(names)))]


def _actors() -> _Sheet:
    places = list(PLACES)
    cells = [
        (f"{name} *" if name in HELD_OUT_ACTORS else name, _scene(name, None, places[i % len(places)], i))
        for i, name in enumerate(ACTORS)
    ]
    held = f"The {len(HELD_OUT_ACTORS)} with a * stand for the customised actors: nothing is trained on them."
    return _Sheet("actors.jpg", "Actors", held, cells)


def _places() -> _Sheet:
    actors = _spread(list(ACTORS), 2 * len(PLACES))
    cells = [
        (PLACES[place].text, _scene(actors[2 * i + variant], None, place, 100 * variant + i))
        for i, place in enumerate(PLACES)
        for variant in (0, 1)
    ]
    return _Sheet("places.jpg", "Places", "Each twice: what stands in a place varies.", cells)


def _things_and_light() -> _Sheet:
    actors, places = _spread(list(ACTORS), len(THINGS) + len(LIGHTS)), list(PLACES)
    shown: list[tuple[str, tuple[str, ...], str]]
    shown = [(thing.words[0], (name,), "day") for name, thing in THINGS.items()]
    shown += [(light.words[0], (), name) for name, light in LIGHTS.items()]
    cells = [
        (words, replace(_scene(actors[i], None, places[3 * i % len(places)], i), things=things, light=light))
        for i, (words, things, light) in enumerate(shown)
    ]
    return _Sheet("things.jpg", "Things and light", "Any actor may wear or hold each, in any light.", cells)


def _headings() -> list[_Sheet]:
    sheets = []
    headings = dict.fromkeys(phrase.heading for phrase in load_phrases())
    for number, heading in enumerate(headings):
        own = [phrase.text for phrase in load_phrases() if phrase.heading == heading]
        chosen = _spread(own, _PHRASES_PER_HEADING)
        actors, places = list(ACTORS), list(PLACES)
        # Steps without a common factor with the lists' lengths, so that neighbours differ.
        cells = [
            (phrase, _scene(actors[(5 * i + number) % len(actors)], phrase, places[(3 * i + number) % len(places)], i))
            for i, phrase in enumerate(chosen)
        ]
        text = f"{len(chosen)} of {len(own)} phrases."
        sheets.append(_Sheet(f"phrases_{heading.lower()}.jpg", f"{heading} phrases", text, cells))
    return sheets


def _matrix() -> _Sheet:
    phrases = _spread([phrase.text for phrase in load_phrases() if phrase.heading == "Body"], _MATRIX_PHRASES)
    places = list(PLACES)
    cells = [
        (phrase, _scene(actor, phrase, places[(row + column) % len(places)], row))
        for row, actor in enumerate(_spread(list(ACTORS), _MATRIX_ACTORS))
        for column, phrase in enumerate(phrases)
    ]
    return _Sheet("matrix.jpg", "Actors × phrases × places", "One row an actor, one column a phrase.", cells)


def _custom() -> _Sheet:
    cells = [(name, exemplar_scenes(action, tuple(PLACES), count=1)[0]) for name, action in CUSTOM_ACTIONS.items()]
    kinds = ", ".join(dict.fromkeys(action.kind for action in CUSTOM_ACTIONS.values()))
    text = f"Held out of all training and learned from pictures alone; one exemplar of each. Kinds in order: {kinds}."
    return _Sheet("custom_actions.jpg", "Custom actions", text, cells)


def _contact_sheet(cells: Sequence[tuple[str, Scene]]) -> Image.Image:
    rows = -(-len(cells) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _PICTURE, rows * (_PICTURE + _CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (caption, scene) in enumerate(cells):
        left, top = index % _COLUMNS * _PICTURE, index // _COLUMNS * (_PICTURE + _CAPTION)
        sheet.paste(Image.fromarray(draw(scene, _PICTURE)), (left, top))
        size = 12.0
        while pen.textlength(caption, font=ImageFont.load_default(size)) > _PICTURE - 4:
            size -= 0.5
        middle = (left + _PICTURE / 2, top + _PICTURE + _CAPTION / 2)
        pen.text(middle, caption, fill="black", font=ImageFont.load_default(size), anchor="mm")
    return sheet


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, optimize=True)
    return buffer.getvalue()
