"""What files hold about people: nothing that is exported does, and `twinact strip` takes out what others hold."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from commands import done, refused
from small import exemplars_in
from twinact.action import Action
from twinact.export import Base, embedding_contents, lora_contents
from twinact.export.personal import personal, strip
from twinact.lora import DOWN, UP

# None of these words occurs in a file by chance; the tables of every JPEG hold "xyz".
CAPTION, FOLDER, USER = "grandmotherzqx <act> in kitchenzqx", "secretfolderzqx", "useraccountzqx"
BASE = Base("StableDiffusionPipeline", "stable-diffusion-v1")


def mentions(data: bytes) -> list[str]:
    return [word for word in ("zqx", str(Path.home()), "/tmp/") if word.encode() in data]


@pytest.fixture(scope="module")
def learned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An action learned from photographs that know where they were taken, with captions, in a telling folder."""
    folder = tmp_path_factory.mktemp("zqx") / FOLDER
    exemplars_in(folder)
    for path in sorted(folder.glob("*.png")):
        photograph = Image.open(path).convert("RGB")
        exif = Image.Exif()
        exif[0x013B] = USER  # artist
        exif[0x8825] = {1: "N", 2: (48.0, 51.0, 30.0)}
        path.unlink()
        photograph.save(path.with_suffix(".jpg"), exif=exif)
        path.with_suffix(".txt").write_text(CAPTION)
    run = folder.parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USER", USER)
        result = done("learn", folder, "--model", model, "--name", "leap", "--method", "textual-inversion", "--steps",
                      "1", "--lora-rank", "1", "--out", run)  # fmt: skip
    return Path(result.stdout.strip())


@pytest.mark.slow
def test_exports_and_pictures_hold_nothing_about_people(
    learned: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mentions(learned.read_bytes()) == ["zqx"]  # the captions: what is looked for would be found
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USER", USER)
    done("export", learned, "--model", model, "--out", "exports")
    done("generate", learned, "--model", model, "--prompt", "a robot <act>", "--steps", "1", "--out", "pictures")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6
    for path in files:
        assert not mentions(path.read_bytes()), path
        if path.suffix == ".safetensors":
            assert personal(path) == [], path


def test_an_action_without_its_exemplars(learned: Path, tmp_path: Path) -> None:
    result = done("strip", learned, "--out", tmp_path / "bare.action.safetensors")
    assert result.stderr.splitlines()[-1] == "left out: captions, exemplars"
    bare, whole = Action.load(tmp_path / "bare.action.safetensors"), Action.load(learned)
    assert all(torch.equal(one, other) for one, other in zip(bare.vectors, whole.vectors, strict=True))
    assert bare.meta["config"] == whole.meta["config"] and bare.lora.keys() == whole.lora.keys()
    assert not mentions((tmp_path / "bare.action.safetensors").read_bytes())
    assert personal(tmp_path / "bare.action.safetensors") == []


def test_a_file_of_kohyas_scripts(tmp_path: Path) -> None:
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{layer}.lora_down.weight": torch.rand(1, 4), f"{layer}.lora_up.weight": torch.rand(4, 1)}
    header = {
        "ss_network_dim": "1", "ss_dataset_dirs": json.dumps({FOLDER: {}}), "ss_tag_frequency": CAPTION,
        "modelspec.author": USER, "modelspec.trigger_phrase": "leap", "modelspec.thumbnail": "data:zqx",
    }  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors", header)
    assert personal(tmp_path / "a.safetensors") == [
        "modelspec.author", "modelspec.thumbnail", "ss_dataset_dirs", "ss_tag_frequency",
    ]  # fmt: skip
    done("strip", tmp_path / "a.safetensors", "--out", tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        kept = file.metadata()
    assert {"ss_network_dim": "1", "modelspec.trigger_phrase": "leap"}.items() <= kept.items()
    assert not mentions((tmp_path / "b.safetensors").read_bytes())
    after = load_file(tmp_path / "b.safetensors")
    assert after.keys() == tensors.keys() and all(torch.equal(after[key], tensors[key]) for key in tensors)


def test_our_own_exports_stay_whole(tmp_path: Path) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = {layer + DOWN: torch.ones(1, 8), layer + UP: torch.ones(8, 1)}
    action = Action("leap", [torch.rand(3, 768)], "m@1", lora=weights)
    contents = embedding_contents(action, BASE, tmp_path) | lora_contents(action, BASE, tmp_path)
    for number, (path, data) in enumerate(contents.items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        copy = strip(path, tmp_path / f"{number}.safetensors")
        assert personal(copy) == []
        assert load_file(copy).keys() == load_file(path).keys()


@pytest.mark.parametrize(("suffix", "most"), [(".png", 0), (".jpg", 4), (".webp", 0)])
def test_a_picture_keeps_its_pixels_and_which_way_is_up(suffix: str, most: int, tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    exif, text = Image.Exif(), PngInfo()
    exif[0x0112], exif[0x013B], exif[0x8825] = 6, USER, {1: "N", 2: (48.0, 51.0, 30.0)}
    text.add_text("parameters", CAPTION)
    more = {".png": {"pnginfo": text}, ".jpg": {"comment": USER.encode()}, ".webp": {"xmp": USER.encode()}}[suffix]
    path, out = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    picture.save(path, exif=exif, **more)
    assert {"EXIF", "GPS"} < set(personal(path)) and mentions(path.read_bytes())
    done("strip", path, "--out", out)
    assert personal(out) == [] and not mentions(out.read_bytes())
    with Image.open(path) as before, Image.open(out) as after:
        assert after.getexif() == {0x0112: 6}
        pairs = zip(before.convert("RGB").tobytes(), after.convert("RGB").tobytes(), strict=True)
        assert max(abs(one - other) for one, other in pairs) <= most


def test_what_is_not_stripped_is_told(learned: Path, model: Path, tmp_path: Path) -> None:
    assert "give the action file in it" in refused("strip", learned.parent, "--out", tmp_path / "x")
    space = tmp_path / "s.space.safetensors"
    (tmp_path / "phrases.txt").write_text("# Body\njumping\nwith a cat\n")
    done("space", "build", "--model", model, "--phrases", tmp_path / "phrases.txt", "--out", space)
    assert "holds nothing about people" in refused("strip", space, "--out", tmp_path / "x")
    assert "already exists" in refused("strip", learned, "--out", space)
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert "is not a PNG" in refused("strip", tmp_path / "a.png", "--out", tmp_path / "x.png")


def test_an_action_of_another_tool_forgets_its_file(learned: Path, tmp_path: Path) -> None:
    imported = replace(Action.load(learned), meta={"imported": "grandmotherzqx.safetensors"})
    path = imported.save(tmp_path / "a.action.safetensors")
    assert personal(path) == ["imported"]
    assert Action.load(strip(path, tmp_path / "b.action.safetensors")).meta == {}
