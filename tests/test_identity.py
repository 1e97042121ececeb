"""What a model is: all of its parts, each of them whole, and which of them differs from what an action was made for."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import CORE, FAMILIES
from small import PHRASES, exemplars_in
from tiny import tiny_sd
from twinact.action import Action
from twinact.backbones import load, model_id
from twinact.backbones.weights import PARTS, difference, digits_of
from twinact.configs import LearnConfig, TextualInversionConfig
from twinact.errors import CheckpointError, ConfigError, TwinactError
from twinact.export import Base
from twinact.jobs.job import Job
from twinact.jobs.models import default_space
from twinact.jobs.run import run_job
from twinact.lora import DOWN, UP
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE, build_space


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name in CORE:
        FAMILIES[name].make().save_pretrained(root / name)
    return {name: root / name for name in CORE}


def without_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    ends = (".bias", "layer_norm.weight", "input_layernorm.weight")  # of CLIP, T5, Qwen
    del tensors[next(key for key in tensors if key.endswith(ends))]
    save_file(tensors, file, metadata={"format": "pt"})


def with_a_shorter_tensor(file: Path) -> None:
    tensors = load_file(file)
    key = next(key for key in tensors if tensors[key].ndim > 1)
    save_file(tensors | {key: tensors[key][..., :-1].contiguous()}, file, metadata={"format": "pt"})


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_a_part_that_is_not_whole_is_named_when_the_model_is_opened(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    load(folder, "cpu")
    # How a language model is to talk is no part of how it reads.
    files = [path for path in folder.rglob("*") if path.parent != folder and path.name != "generation_config.json"]
    harms: list[tuple[Path, Callable[[Path], None]]] = [(path, Path.unlink) for path in files]
    weights = [path for path in files if path.suffix == ".safetensors"]
    harms += [(path, without_a_tensor) for path in weights if path.parent.name.startswith("text_encoder")]
    if name == "sd":  # the other networks are read alike in all families
        harms += [(path, harm) for path in weights for harm in (without_a_tensor, with_a_shorter_tensor)]
    for file, harm in harms:
        content = file.read_bytes()
        harm(file)
        with pytest.raises(CheckpointError) as caught:
            load(folder, "cpu")
        told = str(caught.value)
        assert not any(foreign in told for foreign in ("\n", "torch.", "to_empty", "meta tensor", "github", "False"))
        if file.parent.name.startswith("tokenizer") or harm is without_a_tensor:
            assert f"{file.parent.name} " in told
        if harm is with_a_shorter_tensor:
            assert "has shape (" in told and "asks for (" in told
        file.write_bytes(content)


def another(file: Path) -> None:
    """One bit of one number, in the last tensor of the file."""
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))


def another_word(file: Path) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words["robot</w>"], words["dog</w>"] = words["dog</w>"], words["robot</w>"]
    file.write_text(json.dumps(content), encoding="utf-8")


def another_schedule(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "beta_start": 0.001}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "file", "change"),
    [
        ("denoiser", "unet/diffusion_pytorch_model.safetensors", another),
        ("autoencoder", "vae/diffusion_pytorch_model.safetensors", another),
        ("text encoders", "text_encoder/model.safetensors", another),
        ("tokenizers", "tokenizer/tokenizer.json", another_word),
        ("scheduler", "scheduler/scheduler_config.json", another_schedule),
    ],
)
def test_the_part_that_differs_is_named(
    part: str, file: str, change: Callable[[Path], None], model: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    assert digits_of(model_id(other)) == digits_of(model_id(model)) and len(digits_of(model_id(other))) == len(PARTS)
    change(other / file)
    assert difference(model_id(model), model_id(other)) == f"they differ in: {part}"
    action = Action("leap", [torch.ones(1, 32)], model_id(model))
    with_lora = replace(action, lora={f"unet.x{end}": torch.ones(1, 1) for end in (DOWN, UP)})
    # Vectors alone are for all models that read them with the same text encoders.
    for refused in (with_lora, action) if part in ("text encoders", "tokenizers") else (with_lora,):
        with pytest.raises(CheckpointError, match=f"differ in: {part}"):
            refused.check(model_id=model_id(other))
    if part not in ("text encoders", "tokenizers"):
        action.check(model_id=model_id(other))
    backbone = load(other, "cpu")
    space = build_space(load(model, "cpu"), phrases=PHRASES)
    exemplars_in(tmp_path / "leap")
    file = space.save(tmp_path / "a.space.safetensors")
    config = LearnConfig(name="leap", steps=1, batch_size=1, start="jumping")
    job = Job(exemplars=tmp_path / "leap", config=config, run_dir=tmp_path / "run", space=file)
    if part == "tokenizers":
        with pytest.raises(ConfigError, match=f"the action space was built for.*differ in: {part}"):
            run_job(job, backbone=backbone)
        return
    told: list[str] = []
    assert run_job(job, backbone=backbone, tell=told.append).action.model_id == backbone.model_id
    assert any("has the same token embeddings (they differ in: " + part in text for text in told)


@pytest.mark.parametrize(
    ("name", "file", "settings", "part"),
    [
        ("sdxl", "model_index.json", {"force_zeros_for_empty_prompt": False}, "denoiser"),
        ("sdxl", "tokenizer/special_tokens_map.json", {"pad_token": "!"}, "tokenizers"),
        ("sd", "model_index.json", {"scheduler": ["diffusers", "DDPMScheduler"]}, "scheduler"),
        (
            "sd3",
            "model_index.json",
            {"text_encoder_3": [None] * 2, "tokenizer_3": [None] * 2},
            "text encoders, tokenizers",
        ),
    ],
)
def test_settings_that_decide_pictures_are_parts_of_a_model(
    name: str, file: str, settings: dict[str, object], part: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(folders[name], tmp_path / "other"))
    content = json.loads((other / file).read_text()) if (other / file).exists() else {}
    (other / file).write_text(json.dumps({**content, **settings}))
    assert difference(model_id(folders[name]), model_id(other)) == f"they differ in: {part}"


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_model_only(model: Path, tmp_path: Path) -> None:
    exemplars_in(tmp_path / "leap")
    config = LearnConfig(name="leap", method=TextualInversionConfig(), steps=1, batch_size=1)

    def job(folder: Path) -> Job:
        return Job(exemplars=tmp_path / "leap", config=config, run_dir=tmp_path / "run", model=str(folder))

    run_job(job(model))
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    assert run_job(job(copy)).already_done
    another(copy / "vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(ConfigError, match=r"backbone\.autoencoder \('\w{8}' there, '\w{8}' now\)"):
        run_job(job(copy))


def test_notes_of_the_libraries_are_no_part_of_a_model(model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    for file in ("unet/config.json", "text_encoder/config.json"):
        content = json.loads((other / file).read_text())
        (other / file).write_text(json.dumps({**content, "_name_or_path": "x", "transformers_version": "0"}, indent=7))
    assert digits_of(model_id(other)) == digits_of(model_id(model))


def test_hashes_of_large_files_are_kept_until_they_change(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("twinact.backbones.weights._SMALL_BYTES", 100_000)
    before = model_id(other)
    kept = json.loads((cache / "twinact" / "hashes.json").read_text())
    assert any(name.startswith(str(other)) for name in kept)
    assert model_id(other) == before
    another(other / "unet/diffusion_pytorch_model.safetensors")
    assert difference(before, model_id(other)) == "they differ in: denoiser"
    (cache / "twinact" / "hashes.json").write_text("[1")
    assert difference(before, model_id(other)) == "they differ in: denoiser"


@pytest.mark.parametrize(("name", "part", "key", "value", "told"), [
    ("sd", "vae", "scaling_factor", "much", "scaling_factor is 'much' in the config of its vae"),
    ("sd3", "vae", "scaling_factor", [], r"scaling_factor is \[\] in the config of its vae"),
    ("sd3", "vae", "shift_factor", [[]], r"shift_factor is \[\[\]\] in the config of its vae"),
    ("sd3", "transformer", "sample_size", 64, "draws 64 latents a side, and its transformer knows"),
    ("flux", "transformer", "axes_dims_rope", [2, {"x": 1}, 2], "axes_dims_rope is .* where numbers are needed"),
])  # fmt: skip
def test_settings_that_fail_only_when_a_picture_is_drawn_are_refused_when_a_model_is_opened(
    name: str, part: str, key: str, value: object, told: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(TwinactError, match=told):
        load(folder, "cpu")


def test_a_space_is_its_phrases_too(model: Path, tmp_path: Path) -> None:
    backbone = load(model, "cpu")
    space = build_space(backbone, phrases=PHRASES)
    swapped = replace(space, phrases=(space.phrases[1], space.phrases[0], *space.phrases[2:]))
    assert swapped.hash != space.hash
    action = Action.from_coefficients("leap", space, space.phrase_coefficients[2])
    with pytest.raises(CheckpointError, match="was made in space"):
        action.toward(swapped, "jumping", 1.0)


@pytest.mark.slow
def test_the_space_in_a_models_folder_is_taken_where_its_embeddings_are(model: Path, tmp_path: Path) -> None:
    """Whatever the folder was called and however its denoiser was trained on."""
    folder = Path(shutil.copytree(model, tmp_path / "other"))
    build_space(load(model, "cpu"), phrases=PHRASES).save(folder / SPACE_FILE)
    another(folder / "unet/diffusion_pytorch_model.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        backbone = load(folder, "cpu", dtype)
        space = default_space(backbone)
        assert space.phrases == PHRASES and space.model_id == backbone.model_id
    pipeline = tiny_sd()
    with torch.no_grad():
        pipeline.text_encoder.get_input_embeddings().weight.mul_(1.5)
    pipeline.text_encoder.save_pretrained(folder / "text_encoder")
    assert not ActionSpace.load(folder / SPACE_FILE).is_of(load(folder, "cpu").token_tables())


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_damaged_settings_are_one_line_errors(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    for file in sorted(folder.rglob("*.json")):
        content = file.read_bytes()
        for damaged in (content[: len(content) // 2], b"[1]", b"[" * 100_000):
            file.write_bytes(damaged)
            for use in (model_id, Base.of, lambda path: load(path, "cpu")):
                with contextlib.suppress(TwinactError):  # some may be left out, and nothing else may be raised
                    use(folder)
        file.write_bytes(content)
    (folder / "vae" / "config.json").unlink()
    os.mkfifo(folder / "vae" / "config.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        model_id(folder)
