"""Pictures of exemplars, whole and damaged."""

from pathlib import Path

import numpy as np
from PIL import Image

RED, BLUE = (220, 30, 20), (20, 40, 230)


def halves(width: int = 64, height: int = 64) -> Image.Image:
    """Red left half, blue right half."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture


def pixel(image: Image.Image, x: float, y: float) -> np.ndarray:
    return np.asarray(image)[int(y * image.height), int(x * image.width)].astype(int)


def near(colour: np.ndarray, wanted: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(colour - np.array(wanted)).max() <= tolerance)


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:3000])


def grey16(path: Path) -> None:
    Image.fromarray(np.full((64, 64), 30_000, dtype=np.uint16)).save(path, format="PNG")
