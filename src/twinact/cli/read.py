"""``twinact read``: the poses that pictures show, before anything is learned from them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinact.cli.options import SCHEMA_VERSION, AsJson, open_model
from twinact.cli.outputs import new_file
from twinact.configs.methods import READERS
from twinact.configs.settings import check_choice
from twinact.console import say
from twinact.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from twinact.readers.reader import PoseReading


def read(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO...", help="Pictures or keypoint files (JSON), or folders of them.")
    ],
    reader: Annotated[str, typer.Option(help=f"Who reads: one of {', '.join(READERS)}.")] = "auto",
    person: Annotated[int, typer.Option(min=1, max=100, help="Who is read where there are several, by size.")] = 1,
    model: Annotated[str, typer.Option(help="Model whose own reader may read.")] = "nano",
    weights: Annotated[str | None, typer.Option(help="Name or folder of ViTPose's network.")] = None,
    detector: Annotated[
        str | None, typer.Option(help="Name or folder of the detector (RT-DETR) for ViTPose; 'none' does without.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="PNG with the limbs drawn over the pictures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what pose each picture shows, and what they have in common."""
    check_choice("reader", reader, READERS)
    sheet = None if out is None else new_file(out)
    pictures, paths, files = _given(photos)
    if files and pictures:
        raise DataError(f"{files[0].name} is a keypoint file and {paths[0].name} a picture; give one kind at a time")
    if files:
        from twinact.readers.keypoint_files import read_keypoints

        reading, paths = read_keypoints(files, person=person), files
    else:
        reading = _read(pictures, paths, reader, person, model, weights, detector)
    facts = _facts(paths, reading)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
    else:
        _tell(facts)
    if sheet is not None:
        _draw(sheet, pictures, reading)


def _given(photos: list[Path]) -> tuple[list["Image.Image"], list[Path], list[Path]]:
    """The pictures with their paths, and the keypoint files, that were given."""
    from twinact.data.exemplars import read_exemplars
    from twinact.data.pictures import UnusableError, read_picture
    from twinact.readers.keypoint_files import keypoint_files

    pictures: list[Image.Image] = []
    paths: list[Path] = []
    files: list[Path] = []
    for path in photos:
        if path.is_dir() and (poses := keypoint_files(path)):
            files += poses
        elif path.is_dir():
            found = read_exemplars(path)
            pictures += found.images
            paths += found.paths
        elif path.suffix.lower() == ".json":
            files.append(path)
        else:
            try:
                pictures.append(read_picture(path)[0])
            except UnusableError as problem:
                raise DataError(f"picture '{path}' {problem}") from problem
            paths.append(path)
    return pictures, paths, files


def _read(
    pictures: list["Image.Image"], paths: list[Path], reader: str, person: int, model: str, weights: str | None,
    detector: str | None,
) -> "PoseReading":  # fmt: skip
    from twinact.readers.choice import read_photographs

    backbone = open_model(model) if reader in ("auto", "own") else None
    say(f"reading {len(pictures)} {'picture' if len(pictures) == 1 else 'pictures'}")
    return read_photographs(pictures, paths, reader, backbone, person=person, weights=weights, detector=detector)


def _facts(paths: list[Path], reading: "PoseReading") -> dict[str, Any]:
    """The reading as plain data."""
    from twinact.readers.body import SEGMENT_NAMES
    from twinact.readers.common import common_pose

    def segments(directions: Any, weights: Any) -> dict[str, Any]:
        rows = zip(SEGMENT_NAMES, directions.tolist(), weights.tolist(), strict=True)
        return {name: {"x": round(x, 4), "y": round(y, 4), "weight": round(sure, 4)} for name, (x, y), sure in rows}

    common = common_pose(reading)
    seen = zip(paths, reading.seen, reading.directions, reading.weights, strict=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "pictures": [
            {
                "file": path.name,
                "reader": one.reader,
                "person": one.person,
                "people": one.people,
                "certainty": round(float(weights.mean()), 4),
                "remarks": list(one.remarks),
                "segments": segments(directions, weights),
            }
            for path, one, directions, weights in seen
        ],
        "common": {
            "segments": segments(common.directions, common.weights),
            "disagreeing": list(common.disagreeing),
            "unseen": list(common.unseen),
        },
    }


def _tell(facts: dict[str, Any]) -> None:
    for number, one in enumerate(facts["pictures"], 1):
        who = f"person {one['person']} of {one['people']}, " if one["people"] > 1 else ""
        said = "; ".join(one["remarks"])
        sure = f"{who}{one['certainty']:.0%} sure" if one["person"] else ""
        typer.echo(f"{number:3}  {one['file']}: {'; '.join(part for part in (sure, said) if part)} ({one['reader']})")
    common = facts["common"]
    for what, names in (("the pictures disagree on", common["disagreeing"]), ("no picture shows", common["unseen"])):
        if names:
            typer.echo(f"{what}: {', '.join(names)}")


def _draw(path: Path, pictures: list["Image.Image"], reading: "PoseReading") -> None:
    from PIL import Image

    from twinact.readers.drawn import reading_sheet
    from twinact.sheets import png_bytes
    from twinact.storage import atomic_write_bytes

    ground = pictures or [Image.new("RGB", (320, 320), (90, 90, 90))] * len(reading.weights)
    atomic_write_bytes(path, png_bytes(reading_sheet(ground, reading)), new=True)
    say(f"wrote {path}")
