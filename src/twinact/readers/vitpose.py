"""Reads pictures with ViTPose (Xu et al., 2022; ViTPose++, 2023), which runs in torch and can be differentiated.

The networks come through transformers, by a name on the Hugging Face hub or from a folder. The image processors of
transformers need torchvision, which twinact does without; what they do is a crop and is done here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones import as_folder, quiet
from twinact.errors import ConfigError, DataError, first_line
from twinact.readers.body import SEGMENTS, body_reading, in_square
from twinact.readers.figures import Figure, figures_of, reading_of
from twinact.readers.keypoints import AP_10K, COCO_17, WHOLE_BODY_133, KeypointSet, body_joints
from twinact.readers.reader import PoseReading

if TYPE_CHECKING:
    from transformers import RTDetrForObjectDetection, VitPoseForPoseEstimation

WEIGHTS = "usyd-community/vitpose-plus-base"
DETECTOR = "PekingU/rtdetr_r50vd_coco_o365"
"""Names on the Hugging Face hub, both Apache-2.0."""

# ViTPose++ was trained on six sets, each with an expert of its own: COCO, AI Challenger, MPII, AP-10K, APT-36K, and
# COCO-WholeBody. Those of animals share AP-10K's keypoints.
_ANIMAL_EXPERTS = (3, 4)
_ANIMALS = {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_MARGIN = 1.25  # of ViTPose's training
_DETECTOR_PIXELS, _LEAST_SCORE = 640, 0.5
# Cells on each side of a peak that count for where it is: the heat of training has a deviation of two.
_REACH = 4


class ViTPoseReader:
    """Reads the largest figure in each picture, or another one.

    Args:
        model: Any ViTPose with 17 or 133 keypoints.
        detector: Finds the figures; without it the whole picture is taken for one.
        expert: Which of ViTPose++'s experts reads: 0 people, 3 or 4 animals, 5 the whole body. The folders on the hub
            hold the head of 0 alone; a folder with another head is needed for the others.
        person: Who is read, by size from 1.

    Raises:
        ConfigError: The model has no such expert, or keypoints of another number.
    """

    name = "vitpose"
    segments = len(SEGMENTS)

    def __init__(
        self,
        model: "VitPoseForPoseEstimation",
        detector: "RTDetrForObjectDetection | None" = None,
        *,
        expert: int = 0,
        person: int = 1,
    ) -> None:
        experts, keypoints = model.config.backbone_config.num_experts, model.config.num_labels
        if not 0 <= expert < experts:
            raise ConfigError(f"ViTPose expert {expert} is not there; this model has 0 to {experts - 1}")
        if keypoints not in (17, 133):
            raise ConfigError(f"this ViTPose finds {keypoints} keypoints; give one that finds 17 or 133")
        self.kind: KeypointSet = AP_10K if expert in _ANIMAL_EXPERTS else COCO_17
        if keypoints == WHOLE_BODY_133.count:
            self.kind = WHOLE_BODY_133
        self._model = model.requires_grad_(False).eval()
        self._detector = None if detector is None else detector.requires_grad_(False).eval()
        self._expert, self._experts, self._person = expert, experts, person

    @classmethod
    def open(
        cls,
        weights: str | Path = WEIGHTS,
        detector: str | Path | None = DETECTOR,
        *,
        expert: int = 0,
        person: int = 1,
        device: str | torch.device = "cpu",
    ) -> "ViTPoseReader":
        """The reader of networks on the hub or in folders that ``save_pretrained`` wrote; only safetensors are read.

        Args:
            weights: Name or folder of a ViTPose.
            detector: Name or folder of an RT-DETR; None takes the whole picture.
            expert, person: As above.
            device: Where it runs.

        Raises:
            DataError: One of them is not there, or is something else.
            ConfigError: As above.
        """
        model = _opened("VitPoseForPoseEstimation", weights).to(device)
        finder = None if detector is None else _opened("RTDetrForObjectDetection", detector).to(device)
        return cls(model, finder, expert=expert, person=person)

    def to(self, device: str | torch.device) -> "ViTPoseReader":
        """This reader, its networks moved to a device."""
        for network in (self._model, self._detector):
            if network is not None:
                network.to(device)
        return self

    def read(self, pictures: Sequence[Image.Image]) -> PoseReading:
        return reading_of([self.figures(one) for one in pictures], self._person, self.name)

    @torch.no_grad()
    def figures(self, picture: Image.Image) -> list[Figure]:
        """Everybody in a picture, the largest first.

        Args:
            picture: Of any mode.
        """
        rgb = picture.convert("RGB")
        pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float().div(127.5).sub(1).to(self._model.device)
        boxes = self._boxes(rgb)
        places, sure = self.keypoints(pixels.expand(len(boxes), -1, -1, -1), boxes.to(pixels))
        points = in_square((places * torch.tensor(rgb.size).to(places)).cpu(), *rgb.size)
        return figures_of(points, sure.cpu(), self.kind)

    def keypoints(
        self, pixels: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 4"] | None = None
    ) -> tuple[Float[Tensor, "b keypoints 2"], Float[Tensor, "b keypoints"]]:
        """Where the keypoints are, and how sure each is; differentiable in the pixels.

        Each is the centre of the heat around the highest peak of its map, so the gradient moves the peak that is there
        and knows nothing of others.

        Args:
            pixels: RGB in [-1, 1].
            boxes: Left, top, right and bottom of the figure, as shares of the picture's width and height; the whole
                picture if not given.

        Returns:
            x and y as shares of the picture's width and height, and the heights of the peaks, clipped to [0, 1].
        """
        if boxes is None:
            boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).to(pixels).expand(len(pixels), 4)
        height, width = self._model.config.backbone_config.image_size
        middle, reach = _window(boxes, pixels.shape[3] / pixels.shape[2], width / height)
        crops = _crops(pixels, middle, reach, (height, width))
        mean, std = (torch.tensor(values).to(crops)[:, None, None] for values in (_MEAN, _STD))
        chosen = torch.full((len(crops),), self._expert, device=crops.device) if self._experts > 1 else None
        heat = self._model((crops - mean) / std, dataset_index=chosen).heatmaps.float()
        places, sure = _peaks(heat)
        return middle[:, None] + (2 * places - 1) * reach[:, None], sure

    def read_pixels(self, pixels: Float[Tensor, "b 3 s s"]) -> PoseReading:
        """The pose in square pictures in [-1, 1], one figure in each, differentiable; no detector is asked."""
        return body_reading(*body_joints(*self.keypoints(pixels), self.kind))

    def _boxes(self, picture: Image.Image) -> Float[Tensor, "people 4"]:
        """Boxes around the figures as shares of the picture; the whole picture where the detector sees nobody."""
        whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        if self._detector is None:
            return whole
        wanted = _ANIMALS if self._expert in _ANIMAL_EXPERTS else {"person"}
        labels = [number for number, name in self._detector.config.id2label.items() if name.lower() in wanted]
        small = picture.resize((_DETECTOR_PIXELS, _DETECTOR_PIXELS), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float().div(255).to(self._detector.device)
        found = self._detector(pixels)
        scores = found.logits[0, :, labels].sigmoid().amax(dim=1)
        x, y, width, height = found.pred_boxes[0, scores >= _LEAST_SCORE].cpu().T
        boxes = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1)
        return boxes if len(boxes) else whole


def _opened(kind: str, name: str | Path) -> Any:
    """A network of transformers by name or folder."""
    import transformers

    folder = as_folder(str(name))
    where = str(folder) if folder.is_dir() else str(name)
    try:
        with quiet(bars=True):
            return getattr(transformers, kind).from_pretrained(where, use_safetensors=True)
    except Exception as error:  # of the hub, the files, and the shapes, each with a class of its own
        raise DataError(
            f"{kind} {str(name)!r} cannot be opened ({first_line(error)}): give its name on the Hugging Face hub, or "
            "the folder of a downloaded one"
        ) from error


def _window(
    boxes: Float[Tensor, "b 4"], shape: float, wanted: float
) -> tuple[Float[Tensor, "b 2"], Float[Tensor, "b 2"]]:
    """Middle and half size of the window around each box that has the network's shape, in shares of the picture.

    Args:
        boxes: In shares of the picture.
        shape: Width over height of the picture.
        wanted: Width over height of the network's input.
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    width, height = ((boxes[:, 2:] - boxes[:, :2]) * torch.tensor([shape, 1.0]).to(boxes)).T
    height = torch.maximum(height, width / wanted)
    reach = torch.stack([height * wanted / shape, height], dim=1) * (_MARGIN / 2)
    return middle, reach


def _crops(
    pixels: Float[Tensor, "b 3 h w"], middle: Float[Tensor, "b 2"], reach: Float[Tensor, "b 2"], size: tuple[int, int]
) -> Float[Tensor, "b 3 h2 w2"]:
    """The windows in [0, 1], black outside the picture; corners lie on corners, as ViTPose was trained (UDP)."""
    height, width = size
    # Sampling looks at four pixels only, so what is much larger is averaged first.
    spacing = float(
        (2 * reach * torch.tensor(pixels.shape[:1:-1]).to(reach) / torch.tensor([width, height]).to(reach)).min()
    )
    shrink = max(1, min(int(spacing), *pixels.shape[2:]))
    small = F.avg_pool2d(pixels, shrink, ceil_mode=True, count_include_pad=False) if shrink > 1 else pixels
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, count, device=pixels.device) for count in size), indexing="ij")
    grid = (2 * middle - 1)[:, None, None] + 2 * reach[:, None, None] * torch.stack([x, y], dim=2).to(reach)
    return F.grid_sample((small + 1) / 2, grid, align_corners=False)


def _peaks(heat: Float[Tensor, "b k h w"]) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
    """The centre of the heat around each map's peak, from 0 at the first cell to 1 at the last, and its height."""
    height, width = heat.shape[2:]
    best = heat.flatten(2).argmax(dim=2)
    rows, columns = torch.arange(height, device=heat.device), torch.arange(width, device=heat.device)
    near_y = (rows - (best // width)[..., None]).abs() <= _REACH  # (b, k, h)
    near_x = (columns - (best % width)[..., None]).abs() <= _REACH
    local = heat.clamp(min=0) * near_y[..., None] * near_x[..., None, :]
    mass = local.sum(dim=(2, 3)).clamp(min=1e-9)
    x = (local.sum(dim=2) * columns).sum(dim=2) / mass / max(width - 1, 1)
    y = (local.sum(dim=3) * rows).sum(dim=2) / mass / max(height - 1, 1)
    return torch.stack([x, y], dim=2), heat.amax(dim=(2, 3)).clamp(0, 1)
