"""Chooses who reads a picture: keypoint files first, then whoever sees somebody in it."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from twinact.configs.methods import READERS
from twinact.configs.settings import check_choice
from twinact.data.pictures import upright_size
from twinact.errors import ConfigError, DataError, MissingDependency
from twinact.readers import load_action_encoder
from twinact.readers.body import JOINTS, SEGMENTS
from twinact.readers.figures import UNSURE
from twinact.readers.own import LatentPoseReader
from twinact.readers.reader import PoseReader, PoseReading, Seen

if TYPE_CHECKING:
    from twinact.backbones.backbone import Backbone

# Between the mean certainties of a model's own reader in its drawings and in photographs.
_AT_HOME = 0.6


class SurestReader:
    """Gives every picture to whichever of two readers is surer of it.

    On nano, its own reader's mean certainty is 0.73 in drawings of its world and 0.36 in photographs; BlazePose's is
    0.98 in photographs. BlazePose finds somebody in a third of the drawings, so a folder of which the model's own
    reader is sure on the whole is left to that one. Else each picture goes to the surer, which was BlazePose in 100 of
    100 photographs.

    Args:
        own: Reads what the model draws.
        other: Reads photographs; it is asked only if need be, for it takes longer.
    """

    name = "auto"
    segments = len(SEGMENTS)

    def __init__(self, own: PoseReader, other: PoseReader) -> None:
        self._own, self._other = own, other

    def read(self, pictures: Sequence[Image.Image]) -> PoseReading:
        own = self._own.read(pictures)
        sure = certainty(own)
        if not pictures or sum(sure) / len(sure) >= _AT_HOME:
            return own
        other = self._other.read(pictures)
        mine = [i for i, rival in enumerate(certainty(other)) if sure[i] > max(rival, UNSURE)]
        rest = [i for i in range(len(pictures)) if i not in mine]
        return _joined([(mine, picked(own, mine)), (rest, picked(other, rest))])


def certainty(reading: PoseReading) -> list[float]:
    """How sure a reader is of the whole body in each picture: the mean weight of its segments, in [0, 1]."""
    return [float(weights.mean()) for weights in reading.weights]


def open_reader(
    name: str = "auto",
    backbone: "Backbone | None" = None,
    *,
    person: int = 1,
    weights: str | None = None,
    detector: str | None = None,
) -> PoseReader:
    """A reader of pictures by its name.

    Args:
        name: One of `READERS`, except ``keypoints``, which needs no picture: see `read_photographs`.
        backbone: The model whose own reader may read.
        person: Who is read where there are several, by size from 1.
        weights, detector: Names or folders of ViTPose's networks, if not its usual ones; ``none`` does without a
            detector.

    Raises:
        ConfigError: There is no such reader, or the model has none of its own.
        MissingDependency: The reader is not installed; for ``auto``, none is.
    """
    if name == "blazepose":
        from twinact.readers.blazepose import BlazePoseReader

        return BlazePoseReader(person)
    if name == "vitpose":
        from twinact.readers.vitpose import DETECTOR, WEIGHTS, ViTPoseReader

        finder = None if detector == "none" else detector or DETECTOR
        return ViTPoseReader.open(weights or WEIGHTS, finder, person=person)
    if name == "own":
        own = _own(backbone)
        if own is None:
            model = "none" if backbone is None else repr(backbone.model_id)
            raise ConfigError(f"reader 'own' needs a model that has one, and {model} was given; take blazepose")
        return own
    check_choice("reader", name, ("auto", "blazepose", "vitpose", "own"))
    own = _own(backbone)
    try:
        other = open_reader("blazepose", person=person)
    except MissingDependency:
        if own is None:
            raise
        return own
    return other if own is None else SurestReader(own, other)


def read_photographs(
    pictures: Sequence[Image.Image],
    paths: Sequence[Path],
    name: str = "auto",
    backbone: "Backbone | None" = None,
    *,
    person: int = 1,
    weights: str | None = None,
    detector: str | None = None,
) -> PoseReading:
    """The pose in each picture of a folder, from its keypoint file where it has one.

    Args:
        pictures: Upright; as `twinact.data.exemplars.Photographs` holds them.
        paths: Where they lie.
        name, backbone, person, weights, detector: As for `open_reader`; only ``auto`` and ``keypoints`` look for files.

    Raises:
        DataError: A keypoint file is broken, or one is missing and no other reader may read.
        TwinactError: As `open_reader`.
    """
    check_choice("reader", name, READERS)

    def others(which: Sequence[int]) -> PoseReading:
        if name == "keypoints":
            missing = ", ".join(paths[i].name for i in which)
            raise DataError(
                f"no keypoint file for {missing}; put <stem>_keypoints.json beside it, or take another reader"
            )
        reader = open_reader(name, backbone, person=person, weights=weights, detector=detector)
        return reader.read([pictures[i] for i in which])

    if name not in ("auto", "keypoints"):
        return others(range(len(pictures)))
    return _from_files(pictures, paths, person, others)


def _from_files(
    pictures: Sequence[Image.Image],
    paths: Sequence[Path],
    person: int,
    others: Callable[[Sequence[int]], PoseReading],
) -> PoseReading:
    """Readings from keypoint files, and by `others` for the pictures that have none."""
    from twinact.readers.keypoint_files import keypoint_file, read_keypoints, read_table, table_of

    def sizes(which: Sequence[int]) -> list[tuple[int, int]]:
        # Large pictures are smaller than their files; limbs that stand for a missing picture have none.
        return [upright_size(paths[i]) if paths[i].is_file() else pictures[i].size for i in which]

    files = [keypoint_file(path) for path in paths]
    tables = {folder: table_of(folder) for folder in {path.parent for path in paths}} if None in files else {}
    parts: list[tuple[list[int], PoseReading]] = []
    if own := [i for i, file in enumerate(files) if file is not None]:
        mine = [file for file in files if file is not None]
        parts.append((own, read_keypoints(mine, sizes(own), person)))
    for folder, table in tables.items():
        inside = [i for i, path in enumerate(paths) if path.parent == folder and files[i] is None]
        if table is not None:
            reading = read_table(table, [paths[i] for i in inside], sizes(inside), person)
            parts.append((inside, reading))
    if rest := sorted(set(range(len(paths))) - {i for which, _ in parts for i in which}):
        parts.append((rest, others(rest)))
    return _joined(parts)


def picked(reading: PoseReading, which: Sequence[int]) -> PoseReading:
    """The readings of some of the pictures."""
    index = torch.tensor(list(which), dtype=torch.long)
    return PoseReading(
        reading.directions[index],
        reading.weights[index],
        reading.boxes[index],
        None if reading.joints is None else reading.joints[index],
        tuple(reading.seen[i] for i in which) if reading.seen else (),
        None if reading.heights is None else reading.heights[index],
    )


def _joined(parts: Sequence[tuple[Sequence[int], PoseReading]]) -> PoseReading:
    """Readings of parts of the pictures as one, in the pictures' order."""
    order = torch.tensor([i for which, _ in parts for i in which]).argsort()
    readings = [reading for _, reading in parts]
    names = [one.name for one in fields(PoseReading) if one.name not in ("joints", "seen", "heights")]
    tensors = {name: torch.cat([getattr(one, name).cpu() for one in readings])[order] for name in names}
    joints = [_joints(one) for one in readings]
    seen = [one for reading in readings for one in (reading.seen or [Seen("", 1, 1)] * len(reading.weights))]
    return PoseReading(
        **tensors,
        joints=torch.cat(joints)[order],
        seen=tuple(seen[i] for i in order.tolist()),
        heights=torch.cat([_heights(one) for one in readings])[order],
    )


def _joints(reading: PoseReading) -> torch.Tensor:
    if reading.joints is None:
        return torch.full((len(reading.weights), len(JOINTS), 2), torch.nan)
    return reading.joints.cpu()


def _heights(reading: PoseReading) -> torch.Tensor:
    if reading.heights is None:
        return torch.full((len(reading.weights),), torch.nan)
    return reading.heights.cpu()


def _own(backbone: "Backbone | None") -> LatentPoseReader | None:
    """The reader in a model's folder, if it reads the body that all others do."""
    encoder = None if backbone is None or backbone.folder is None else load_action_encoder(backbone.folder)
    if encoder is None or backbone is None or encoder.config.segments != SEGMENTS:
        return None
    return LatentPoseReader(encoder, backbone)
