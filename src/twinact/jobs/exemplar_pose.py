"""What pose the exemplars of a job show, if it can be read and the model can be asked for it."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from twinact.backbones.backbone import Backbone
from twinact.configs import NOBODY, LearnConfig, MethodConfig, TwinActConfig
from twinact.data.exemplars import Photographs, read_exemplars
from twinact.data.folder import sort_files
from twinact.data.pictures import MAX_FILE_BYTES
from twinact.errors import ConfigError, DataError, MissingDependency
from twinact.intent import PoseTarget, intended_pose
from twinact.readers.body import SEGMENTS
from twinact.readers.choice import read_photographs
from twinact.readers.common import common_pose
from twinact.readers.drawn import draw_keypoints
from twinact.readers.keypoint_files import keypoint_file, keypoint_files, table_of
from twinact.space.pose_table import PoseTable
from twinact.storage import check_regular

# Mean weight of the segments below which a pose is no more than a guess.
_LEAST = 0.1
_DRAWN_PIXELS = 320


def given_exemplars(folder: Path, actor: str = NOBODY) -> Photographs:
    """The exemplars in a folder; of keypoint files without pictures, their limbs drawn on white.

    Args:
        folder: Holds pictures, or keypoint files; captions beside either.
        actor: Who is seen in pictures without a caption, as in "a woman".

    Raises:
        DataError: As `twinact.data.exemplars.read_exemplars`, or a keypoint file is broken or holds nobody.
    """
    poses = keypoint_files(folder) if folder.is_dir() else ()
    if not poses:
        return read_exemplars(folder, actor=actor)
    with TemporaryDirectory() as drawn:  # a folder of somebody's files stays as it is
        files = sort_files(folder)  # and nothing else, of whatever size it may be
        for path in (*files.captions, *files.tables, *(mask for masks in files.masks.values() for mask in masks)):
            check_regular(path, MAX_FILE_BYTES)
            shutil.copyfile(path, Path(drawn) / path.name)
        draw_keypoints(poses, Path(drawn), _DRAWN_PIXELS)
        try:
            found = read_exemplars(drawn, actor=actor)
        except DataError as error:
            raise DataError(str(error).replace(drawn, str(folder))) from error
    return replace(found, paths=tuple(folder / path.name for path in found.paths))


def with_keypoints(photographs: Photographs) -> Photographs:
    """The photographs with hashes that are also of their keypoint files, which decide what is learned as they do.

    Raises:
        DataError: A keypoint file is broken.
    """
    files = [keypoint_file(path) for path in photographs.paths]
    tables = (
        {folder: table_of(folder) for folder in {path.parent for path in photographs.paths}} if None in files else {}
    )
    hashes = []
    for path, file, own in zip(photographs.paths, files, photographs.hashes, strict=True):
        file = file or tables[path.parent]
        hashes.append(own if file is None else hashlib.sha256(own.encode() + file.read_bytes()).hexdigest())
    return replace(photographs, hashes=tuple(hashes))


def check_pictures(folder: Path, method: MethodConfig) -> None:
    """Refuse to denoise drawings of limbs, which nobody gave.

    Args:
        folder: Of the exemplars.
        method: Settled settings.

    Raises:
        DataError: There are only keypoint files, and more than the pose would be learned.
    """
    if keypoint_files(folder) and method.denoises:
        raise DataError(
            f"exemplar folder '{folder}' holds keypoint files and no pictures, so there is nothing to denoise; put the "
            "pictures there, or learn from limbs alone, which needs somebody in the files and a model such as nano"
        )


def pose_target(
    config: LearnConfig,
    backbone: Backbone,
    photographs: Photographs,
    tell: Callable[[str], None],
    poses: PoseTable | None = None,
) -> PoseTarget | None:
    """The exemplars' common pose; None where the settings do not ask for it, or it cannot be had.

    Args:
        config: Of the run.
        backbone: The model.
        photographs: The exemplars.
        tell: Receives what was seen and what was not.
        poses: The pose table of the run's space, if that is given: it says how the model's intended pose is read.

    Raises:
        ConfigError: A reader was asked for by name that the model does not have.
        DataError: A keypoint file is broken.
        MissingDependency: A reader was asked for by name that is not installed.
    """
    settings = config.method
    if not isinstance(settings, TwinActConfig) or settings.pose_weight == 0:
        return None
    intent = intended_pose(backbone, poses)
    if intent is None or intent.segments != SEGMENTS:
        if settings.pose_weight is None:
            tell(
                "this model has not been measured for the pose that it means, so the action is learned by denoising, "
                "which passes all that captions leave unsaid; 'twinact space build --reader vitpose' measures it"
            )
        return None
    try:
        reading = read_photographs(
            photographs.images, photographs.paths, settings.reader, backbone, person=settings.person
        )
    except (MissingDependency, ConfigError):
        if settings.reader != "auto":
            raise
        return None
    for path, one in zip(photographs.paths, reading.seen, strict=False):
        for remark in one.remarks:
            tell(f"{path.name}: {remark}")
    common = common_pose(reading)
    if float(common.weights.mean()) < _LEAST:
        tell("no pose is seen in the pictures, so the action is learned by denoising")
        return None
    if common.disagreeing:
        tell(f"the pictures differ in {', '.join(common.disagreeing)}, which therefore do not count")
    if common.unseen:
        tell(f"no picture shows {', '.join(common.unseen)}, which therefore do not count")
    head = None if poses is None else poses.head
    if head is not None:
        tell(
            f"the space's head reads the pose that the model means; correlation {head.correlation:.2f} with the reader"
        )
    return PoseTarget(*common.rows, intent, common.disagreeing, common.unseen, None if head is None else head.hash)
