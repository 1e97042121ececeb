"""Damages files in ways that follow from a generator: bits, places in the file system, and what the content says."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANYTHING: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, "", "x", "\x00", "a" * 100_000, [], [[]], {}, {"x": 1}, [None, "x", 3], "../../x",
)  # fmt: skip
DEEP = b"[" * 100_000
# Beyond this, a file is changed in memory only where a bit is flipped.
_EXTREMES = (float("nan"), float("inf"), 3e38, 0.0)


def flip(path: Path, rng: random.Random) -> str:
    """Flip one bit."""
    data = bytearray(path.read_bytes() or b"x")
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
    return f"bit flipped in byte {place}"


def spoil(path: Path, rng: random.Random) -> str:
    """Damage the bytes of a file."""
    data = path.read_bytes()
    place = rng.randrange(len(data) + 1)
    ways: dict[str, Callable[[], bytes]] = {
        "cut": lambda: data[:place],
        "beginning lost": lambda: data[place:],
        "zeros at its end": lambda: data + bytes(rng.randrange(1, 5000)),
        "zeros inside": lambda: data[:place] + bytes(min(512, len(data) - place)) + data[place + 512 :],
        "empty": lambda: b"",
        "a byte more": lambda: data[:place] + bytes([rng.randrange(256)]) + data[place:],
        "noise": lambda: rng.randbytes(len(data)),
        "doubled": lambda: data + data,
        "deep JSON": lambda: DEEP,
        "other JSON": lambda: rng.choice([b"null", b"[]", b"{}", b"7", b'"x"', b'{"a": 1, "a": 2}', b"NaN"]),
        "byte order mark": lambda: b"\xff\xfe" + data,
        "huge header": lambda: (2**40).to_bytes(8, "little") + data[8:],
    }
    way = rng.choice(sorted(ways))
    path.write_bytes(ways[way]())
    return way


def misplace(path: Path, rng: random.Random, stranger: Path) -> str:
    """Put something else in the place of a file; `stranger` is a file of somebody else."""
    path.unlink()
    ways: dict[str, Callable[[], object]] = {
        "missing": lambda: None,
        "a folder": path.mkdir,
        "a pipe": lambda: os.mkfifo(path),
        "a link to a stranger's file": lambda: path.symlink_to(stranger),
        "a link to nothing": lambda: path.symlink_to(path.with_name("nowhere")),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link to a device": lambda: path.symlink_to("/dev/zero"),
    }
    way = rng.choice(sorted(ways))
    ways[way]()
    return way


def rewrite(path: Path, rng: random.Random) -> str:
    """Change what a file says, such that it is well-formed and its own checksum holds."""
    if path.suffix == ".safetensors":
        return _rewrite_tensors(path, rng)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except (ValueError, OSError):
        return _rewrite_lines(path, rng)
    if not isinstance(content, (dict, list)) or not content:
        return spoil(path, rng)
    told, content = _another(content, rng)
    path.write_text(json.dumps(content), encoding="utf-8")
    return told


def _another(content: Any, rng: random.Random) -> tuple[str, Any]:
    """The content with one value that is another, or one key less."""
    holder, key, where = content, None, ""
    while isinstance(holder, (dict, list)) and holder:
        key = rng.choice(sorted(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        where += f"/{key}"
        inner = holder[key]  # type: ignore[index]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.3:
            break
        holder = inner
    if isinstance(holder, dict) and rng.random() < 0.2:
        del holder[key]
        return f"{where} left out", content
    value = rng.choice(ANYTHING)
    holder[key] = value  # type: ignore[index]
    return f"{where} is {repr(value)[:20]}", content


def _rewrite_lines(path: Path, rng: random.Random) -> str:
    """One line of a text twice, left out, very long, or of other letters."""
    lines = path.read_bytes().splitlines(keepends=True) or [b"x\n"]
    place = rng.randrange(len(lines))
    line = lines[place]
    ways = {
        "a line twice": [line, line],
        "a line left out": [],
        "a line that is very long": [b"a " * 200_000 + b"\n"],
        "a line of other letters": ["🐍 \u202e‏日本\u0301 <act>\n".encode()],
        "a line that is no text": [b"\xed\xa0\x80\n"],
        "lines in another order": [line, *lines],
    }
    way = rng.choice(sorted(ways))
    path.write_bytes(b"".join([*lines[:place], *ways[way], *lines[place + 1 :]]))
    return way


def _rewrite_tensors(path: Path, rng: random.Random) -> str:
    from safetensors import safe_open
    from safetensors.torch import load_file

    from twinact.storage import write_safetensors

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    tensors = load_file(path)
    told = ""
    header = json.loads(metadata["twinact"]) if "twinact" in metadata else None
    if header is not None and rng.random() < 0.6:
        kept = {key: header.pop(key) for key in ("kind", "version", "sha256")}
        told, header = _another(header, rng)
        header |= {key: kept[key] for key in ("kind", "version")}
    else:
        told = _change_tensor(tensors, rng)
        if header is not None:
            header.pop("sha256")
    if header is not None:
        write_safetensors(path, tensors, header)
    else:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata)
    return told


def _change_tensor(tensors: dict[str, Any], rng: random.Random) -> str:
    import torch

    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    ways: dict[str, Callable[[], Any]] = {
        "left out": lambda: None,
        "of one dimension": lambda: tensor.flatten(),
        "empty": lambda: tensor.new_zeros(0),
        "without its last row": lambda: tensor[..., :-1] if tensor.ndim else tensor,
        "a dimension more": lambda: tensor[None],
        "of whole numbers": lambda: torch.zeros(tensor.shape, dtype=torch.int64),
        "of truth values": lambda: torch.zeros(tensor.shape, dtype=torch.bool),
        "twice as long": lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor,
        "extreme": lambda: torch.full_like(tensor, rng.choice(_EXTREMES)) if tensor.is_floating_point() else tensor,
    }
    way = rng.choice(sorted(ways))
    changed = ways[way]()
    del tensors[name]
    if changed is not None:
        tensors[name] = changed
    return f"{name} {way}"
