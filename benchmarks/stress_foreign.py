"""The cases of `stress.py` with files of others: bad pictures among exemplars, and code where data is expected."""

import io
import json
import os
import pickle
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stress_cases import Suite, Verdict, meet
from stress_ground import Ground


def pictures(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """A file among the exemplars that is no good picture: refused by its name, or left alone, or read as others do."""
    label, make, must = _bad_pictures()[case]
    copy = Path(shutil.copytree(ground.base / "leap", folder / "leap"))
    make(copy / "bad.png", rng)
    found = meet(ground.tasks["learn"].on(ground.base / "leap", copy), folder, label, compare=False)
    if must and found.state != "failed" and (found.state != "refused" or "bad.png" not in found.told):
        return Verdict("failed", f"{label}: not refused by its name: {found.told}", found.need)
    return found


def _bad_pictures() -> list[tuple[str, Callable[[Path, random.Random], object], bool]]:
    """72 of them: what it is, what makes it, and whether it must be refused."""
    found: list[tuple[str, Callable[[Path, random.Random], object], bool]] = []
    for kind in ("PNG", "JPEG", "WEBP"):
        for share in (0.0, 0.02, 0.3, 0.6, 0.95):
            found.append((f"{kind} cut at {share:.0%}", partial(_encoded, kind, share=share), True))
        for number in range(5):
            found.append((f"{kind} with a flipped bit, {number}", partial(_encoded, kind, flip=True), False))
        found.append((f"{kind} of 1 × 1", partial(_encoded, kind, size=(1, 1)), True))
        found.append((f"{kind} of 3000 × 8", partial(_encoded, kind, size=(3000, 8)), True))
        found.append((f"{kind} with rubbish behind it", partial(_encoded, kind, more=b"\0" * 5000), False))
    for kind in ("TIFF", "BMP", "GIF", "ICO", "PPM", "TGA", "PDF", "EPS", "SGI", "PCX"):
        found.append((f"{kind} called PNG", partial(_encoded, kind), True))
    for beginning in (b"<svg/>", b"<html>", b"\x7fELF", b"PK\x03\x04", b"SIMPLE  = T", b"8BPS", b"\0\0\0\x18ftypheic"):
        found.append((f"{beginning!r}", lambda path, rng, b=beginning: path.write_bytes(b + bytes(3000)), True))
    for label, size, depth in (
        ("a bomb", (60_000, 60_000), 8),
        ("too large", (8000, 8000), 1),
        ("16 bits", (48, 40), 16),
    ):
        found.append((f"PNG, {label}", partial(_raw_png, size=size, depth=depth), True))
    for label, chunk in (
        ("a text bomb", b"zTXtComment\0\0" + zlib.compress(bytes(200_000_000), 9)),
        ("a broken profile", b"iCCPx\0\0" + zlib.compress(b"rubbish" * 300)),
        ("broken EXIF", b"eXIf" + b"MM\0*\xff\xff\xff\xff"),
    ):
        found.append((f"PNG with {label}", partial(_raw_png, chunk=chunk), False))
    for kind in ("PNG", "WEBP"):
        found.append((f"animated {kind}", partial(_encoded, kind, frames=3), True))
    things: dict[str, tuple[Callable[[Path], object], bool]] = {
        "a pipe": (os.mkfifo, True), "a folder": (os.mkdir, False),
        "a link to nothing": (lambda path: path.symlink_to("nowhere"), True),
        "a link to itself": (lambda path: path.symlink_to(path.name), True),
        "a device": (lambda path: path.symlink_to("/dev/zero"), True),
        "a copy of another": (lambda path: shutil.copy(path.with_name("0.png"), path), True),
        "grey in 16 levels": (lambda path: _encoded("PNG", path, random.Random(1), mode="L"), False),
        "CMYK": (lambda path: _encoded("JPEG", path, random.Random(1), mode="CMYK"), False),
    }  # fmt: skip
    found += [(label, lambda path, rng, make=make: make(path), must) for label, (make, must) in things.items()]
    return found


def _encoded(
    kind: str, path: Path, rng: random.Random, *, share: float = 1.0, flip: bool = False, more: bytes = b"",
    size: tuple[int, int] = (48, 40), frames: int = 1, mode: str = "RGB",
) -> None:  # fmt: skip
    """A picture of noise in some format, with something wrong."""
    from PIL import Image

    images = []
    for _ in range(frames):
        noise = Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
        images.append(noise.convert(mode))
    buffer = io.BytesIO()
    options = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    images[0].save(buffer, kind, **options)
    data = bytearray(buffer.getvalue())
    if flip:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data[: int(share * len(data))]) + more)


def _raw_png(
    path: Path, rng: random.Random, *, size: tuple[int, int] = (48, 40), depth: int = 8, chunk: bytes = b""
) -> None:
    """A grey PNG, chunk by chunk; of the largest only a part of the pixels is there."""

    def packed(content: bytes) -> bytes:
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

    row = 1 + size[0] * depth // 8
    pixels = zlib.compress(bytes(row) * min(size[1], 8000), 9)
    head = packed(b"IHDR" + struct.pack(">IIBBBBB", *size, depth, 0, 0, 0, 0))
    parts = (head, packed(chunk) if chunk else b"", packed(b"IDAT" + pixels), packed(b"IEND"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


class _Canary:
    """Whoever unpickles it leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("canary",))


_CODE = "import os\nos.mkdir('canary')\nclass Evil:\n    pass\n"


def canaries(ground: Ground, folder: Path, case: int, rng: random.Random) -> Verdict:
    """Pickles and code where files are expected: nothing of them runs."""
    work = folder / "work"
    work.mkdir(parents=True)
    ending = (".pt", ".bin", ".ckpt", ".pkl", ".safetensors", ".action.safetensors")[case // 6 % 6]
    evil = folder / f"evil{ending}"
    evil.write_bytes(pickle.dumps(_Canary()))
    model = ground.base / "models" / "sd"
    copy = Path(shutil.copytree(model, folder / "sd"))
    name = ("import", "generate sd", "show", "adjust", "learn", "model")[case % 6]
    if name == "model":
        _evil_model(copy, case // 6 % 6)
        task = ground.tasks["generate sd"].on(model, copy)
    else:
        task = ground.tasks[name]
        files = [one for one in task.arguments if isinstance(one, Path) and one.suffix == ".safetensors"]
        task = task.on(files[-1], evil)
    for place in (work, copy):
        (place / "evil.py").write_text(_CODE)
    found = meet(task, folder, f"{name} {evil.name}", compare=False)
    if (work / "canary").exists():
        return Verdict("failed", f"{name} {evil.name}: the code ran", found.need)
    return found


def _evil_model(model: Path, way: int) -> None:
    """Code or pickles in the places of a model's folder where libraries look for them."""
    index = model / "model_index.json"
    content = json.loads(index.read_text())
    if way == 0:
        content["_class_name"] = ["evil", "Evil"]
    elif way == 1:
        content["unet"] = ["evil", "Evil"]
    elif way == 2:
        content["text_encoder"] = ["evil", "Evil"]
    elif way == 3:
        config = model / "text_encoder" / "config.json"
        own = json.loads(config.read_text()) | {"auto_map": {"AutoModel": "evil.Evil"}, "model_type": "evil"}
        config.write_text(json.dumps(own))
    else:
        part, name = (("unet", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model"))[way - 4]
        for path in (model / part).glob("*.safetensors"):
            path.unlink()
        (model / part / f"{name}.bin").write_bytes(pickle.dumps(_Canary()))
    index.write_text(json.dumps(content))


SUITES: dict[str, Suite] = {
    "pictures": Suite(len(_bad_pictures()), pictures),
    "canaries": Suite(36, canaries),
}
