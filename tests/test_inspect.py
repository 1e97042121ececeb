"""`twinact inspect`: what files are and hold, and whether another program will read them."""

import json
import os
import shutil
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from commands import done, invoke, refused
from families import BASES
from small import exemplars_in
from twinact.action import Action
from twinact.export import Base, export_embedding, export_lora
from twinact.export.readable import PROGRAMS, obstacles
from twinact.lora import DOWN, UP


@pytest.fixture(scope="module")
def learned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    exemplars_in(folder / "leap")
    result = done("learn", folder / "leap", "--model", model, "--steps", "1", "--start", "jumping", "--out",
                  folder / "run")  # fmt: skip
    return Path(result.stdout.strip())


def facts(*arguments: str | Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(done("inspect", *arguments, "--json").stdout)
    return found


@pytest.mark.slow
def test_an_action_a_run_a_space_and_a_model(learned: Path, model: Path, tmp_path: Path) -> None:
    action, run = facts(learned), facts(learned.parent)
    assert (action["kind"], action["name"], action["about people"]) == ("action", "leap", ["captions", "exemplars"])
    assert (run["kind"], run["done"], run["steps"]) == ("run", True, "1 of 1")
    space = facts(learned.parent / "phrases.space.safetensors")
    assert (space["kind"], space["hash"]) == ("space", action["space"])
    assert facts(model)["family"] == "StableDiffusionPipeline"
    (checkpoint,) = (learned.parent / "checkpoint").glob("*.safetensors")
    assert (facts(checkpoint)["kind"], facts(checkpoint)["step"]) == ("checkpoint", 1)
    told = done("inspect", learned).stdout
    assert told.startswith("kind  action\n") and "captions, exemplars; twinact strip writes a copy without" in told
    assert "nearest phrases\n" in told
    told = done("inspect", learned.parent).stdout
    assert "done  true" in told and "share the action in it" in told  # strip takes no run
    assert "is a folder; give a file" in refused("explain", learned.parent)
    alone = tmp_path / learned.name
    alone.write_bytes(learned.read_bytes())
    assert "its space is not beside it" in done("inspect", alone).stdout


def test_pictures_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.png", BytesIO()
    Image.new("RGB", (8, 8)).save(whole, "PNG")
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    large = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    for data, told in (
        (whole.getvalue()[:8] + large + whole.getvalue()[33:], "too many pixels"),
        (b"x", "is not a PNG"),
    ):
        path.write_bytes(data)
        for command in (("inspect", path), ("strip", path, "--out", tmp_path / "b.png")):
            said = refused(*command)
            assert told in said and " at 0x" not in said


def test_damaged_notes_of_a_picture_leak_no_line(tmp_path: Path) -> None:
    whole = BytesIO()
    Image.new("RGB", (40, 40)).save(whole, "JPEG")
    notes = b"\xff\xe1" + struct.pack(">H", 20) + b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0"
    (tmp_path / "a.jpg").write_bytes(whole.getvalue()[:2] + notes + whole.getvalue()[2:])
    assert done("inspect", tmp_path / "a.jpg").stderr.splitlines() == [f"reading {tmp_path / 'a.jpg'}"]


def test_a_model_whose_weights_are_a_pipe_is_told(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    os.mkfifo(tmp_path / "m" / "unet" / "a.fp16.safetensors")
    assert "a.fp16.safetensors' is not a regular file" in refused("inspect", tmp_path / "m")


def test_a_picture_tells_how_it_was_drawn(learned: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    (picture,) = done("generate", learned, "--model", model, "--prompt", "a robot <act>", "--steps", "1",
                      "--out", out).stdout.split()  # fmt: skip
    told = facts(picture)
    assert told["kind"] == "picture" and told["drawn"]["prompt"] == "a robot <act>"  # type: ignore[index]
    assert told["about people"] == ["parameters", "twinact"]
    Image.new("RGB", (40, 30)).save(tmp_path / "plain.png")
    assert facts(tmp_path / "plain.png") == {
        "schema_version": 1, "kind": "picture", "size": "40 × 30", "drawn": None, "parameters": None,
        "about people": [],
    }  # fmt: skip


def exported(name: str, tmp_path: Path) -> list[Path]:
    """Exports of an action as wide as the published models of a family are, and their LoRAs."""
    base, widths, part = {
        "sd": (BASES["sd"], (768,), "unet"),
        "sdxl": (BASES["sdxl"], (768, 1280), "unet"),
        "sd3": (BASES["sd3"], (768, 1280, 4096), None),
    }[name]
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {} if part is None else {layer + DOWN: torch.ones(1, 8), layer + UP: torch.ones(8, 1)}
    action = Action("leap", [torch.rand(3, width) for width in widths], "m@1", lora=lora)
    files = export_embedding(action, base, tmp_path)
    return files + (export_lora(action, base, tmp_path) if lora else [])


@pytest.mark.parametrize(
    ("name", "readers"),
    [
        ("sd", {"twa-leap": {*PROGRAMS}, "learned_embeds": {*PROGRAMS} - {"invokeai"}}),
        ("sdxl", {"twa-leap": {"comfyui", "a1111", "forge", "invokeai"}}),
        ("sd3", {"twa-leap": {"comfyui", "invokeai"}}),
    ],
)
def test_who_reads_what_is_exported(name: str, readers: dict[str, set[str]], tmp_path: Path) -> None:
    files = {path.stem: path for path in exported(name, tmp_path)}
    for stem, expected in readers.items():
        assert {program for program in PROGRAMS if not obstacles(files[stem], program)} == expected, stem
    if "twa-leap-lora" in files:
        for stem in ("twa-leap-lora", "twa-leap-bundle"):
            assert {one for one in PROGRAMS if not obstacles(files[stem], one)} == {*PROGRAMS} - {"invokeai"}
        assert {one for one in PROGRAMS if not obstacles(files["pytorch_lora_weights"], one)} == {
            "comfyui",
            "diffusers",
        }


@pytest.mark.parametrize(
    ("stem", "tensors", "told"),
    [
        ("1e5", {"emb_params": (3, 768)}, "reads as a number"),
        ("a b", {"emb_params": (3, 768)}, "where ComfyUI ends a word"),
        ("leap", {"emb_params": (3, 192)}, "no text encoder of that width"),
        ("leap", {"emb_params": (80, 768)}, "at most 75 together"),
        ("leap", {"clip_l": (3, 768), "t5": (3, 4096)}, "looks for 't5xxl'"),
        ("leap", {"clip_l": (3, 1280)}, "is 1280 wide"),
        ("leap", {}, "no vectors and no LoRA"),
        ("leap", {"alpha": ()}, "no vectors and no LoRA"),
        ("leap", {"strange.lora_A.weight": (1, 8), "strange.lora_B.weight": (8, 1)}, "does not know"),
    ],
)
def test_what_comfyui_would_pass_over(
    stem: str, tensors: dict[str, tuple[int, ...]], told: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{stem}.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, path)
    (reason,) = obstacles(path, "comfyui")
    assert told in reason


def test_the_answer_is_in_the_exit_code(learned: Path, tmp_path: Path) -> None:
    (path,) = [one for one in exported("sdxl", tmp_path) if one.stem == "twa-leap"]
    assert done("inspect", path, "--for", "comfyui").stdout.endswith("comfyui reads it\n")
    result = invoke("inspect", learned, "--for", "comfyui")
    assert result.exit_code == 1 and "twinact export writes files for it" in result.stdout
    assert "did you mean 'comfyui'" in refused("inspect", path, "--for", "comfyu", code=2)
    assert "does not exist" in refused("inspect", tmp_path / "gone")
    assert "holds no run and no model" in refused("inspect", tmp_path)


@pytest.mark.parametrize(
    ("keys", "kind", "word"),
    [
        (["exploration"], "embedding", None),
        (["clip_l", "clip_g"], "embedding", None),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.alpha", "bundle_emb.v1.5.clip_l"], "LoRA", "v1.5"),
        (["lora_unet_x.hada_w1_a", "lora_unet_x.alpha"], "LoHa", None),
    ],
)
def test_kind_of_a_file_of_another_tool(keys: list[str], kind: str, word: str | None, tmp_path: Path) -> None:
    path = tmp_path / "given.safetensors"
    save_file({key: torch.zeros(1, 8) for key in keys}, path)
    told = facts(path)
    assert (told["kind"], told["word"]) == (kind, word)


def test_a_lora_with_its_word_inside(tmp_path: Path) -> None:
    action = Action("leap", [torch.rand(2, 768)], "m@1", lora={
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q" + DOWN: torch.ones(1, 8),
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q" + UP: torch.ones(8, 1),
    })  # fmt: skip
    bundle = export_lora(action, Base("StableDiffusionPipeline", "stable-diffusion-v1"), tmp_path)[2]
    told = facts(bundle)
    assert (told["kind"], told["word"], told["action"]) == ("LoRA", "twa-leap", "leap")
