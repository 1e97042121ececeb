"""Says whether what was read from the file of a space is one."""

from typing import Any

import torch
from torch import Tensor

from twinact.configs import EARLY_STEPS
from twinact.space.pose_head import HEAD_SCHEMA, PREFIX, stored_head
from twinact.space.pose_table import OWN, PoseTable

POSE_SCHEMA = {
    "drawings": (None, int),
    "pose_steps": (None, int),
    "pose_reader": (None, str),
    "pose_head": (None, HEAD_SCHEMA),
}
"""Of what the header says of a pose table."""
_POSES = ("directions", "rest", "strengths")  # their names in the file begin with "pose_"


def check_stored(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Checks that tensors and header describe one space; KeyError, TypeError or ValueError otherwise."""
    slots, rank, width, n = header["slots"], header["rank"], sum(header["widths"]), len(header["phrases"])
    shapes = {
        "mean": (slots, width),
        "scale": (slots, len(header["encoders"])),
        "basis": (slots, rank, width),
        "sigma": (slots, rank),
        "variance": (slots,),
        "conjunction": (width,),
        "phrase_coefficients": (n, slots, rank),
        "phrase_mask": (n, slots),
    }
    for name, shape in shapes.items():
        dtype = torch.bool if name == "phrase_mask" else torch.float32
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {shape}")
    if len(header["widths"]) != len(header["encoders"]) or len(header["distinct"]) != slots:
        raise ValueError("widths, encoders, distinct and slots do not fit together")
    if not all(bool(tensors[name].isfinite().all()) for name in shapes):
        raise ValueError("a value is not finite")


def poses_to_store(poses: PoseTable) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and entries of the header that a pose table takes in a file."""
    tensors = {f"pose_{name}": getattr(poses, name) for name in _POSES}
    header = {"drawings": poses.drawings, "pose_steps": poses.steps, "pose_reader": poses.reader}
    if poses.head is not None:
        tensors |= {PREFIX + name: tensor for name, tensor in poses.head.tensors.items()}
        header["pose_head"] = poses.head.header()
    return tensors, header


def stored_poses(tensors: dict[str, Tensor], header: dict[str, Any]) -> PoseTable | None:
    """The pose table of a file, if it holds one; KeyError or ValueError when it is none."""
    if header.get("drawings") is None:
        return None
    directions, rest, strengths = (tensors[f"pose_{name}"].float() for name in _POSES)
    shape = (len(header["phrases"]), len(rest), 2)
    shapes = [tuple(tensor.shape) for tensor in (directions, rest, strengths)]
    if shapes != [shape, shape[1:], shape[:2]]:
        raise ValueError(f"the pose table has shapes {shapes}, expected {shape}, {shape[1:]} and {shape[:2]}")
    finite = all(bool(tensor.isfinite().all()) for tensor in (directions, rest, strengths))
    if not finite or bool((strengths <= 0).any()):
        raise ValueError("a value of the pose table is not finite, or a strength is not above 0")
    steps, reader = header.get("pose_steps") or 1, header.get("pose_reader") or OWN
    if not EARLY_STEPS.hold(steps):
        raise ValueError(f"the poses were read after {steps} steps, expected a number in {EARLY_STEPS}")
    head = stored_head(tensors, header.get("pose_head"), len(rest))
    return PoseTable(directions, rest, strengths, header["drawings"], steps, reader, head)
