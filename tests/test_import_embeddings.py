"""Embeddings of other tools, read as actions, or refused by what is wrong with them."""

import unicodedata
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import BASES, backbone_of
from twinact.action import Action
from twinact.errors import CheckpointError
from twinact.export import LAYOUTS, Base, export_embedding, import_action, import_embedding

SD = "StableDiffusionPipeline"


# Real widths of the text encoders.
_MODELS = {
    "sd1": (BASES["sd"], [768]),
    "sd2": (Base(SD, "stable-diffusion-v2-768-v"), [1024]),
    "sdxl": (BASES["sdxl"], [768, 1280]),
    "sd3": (BASES["sd3"], [768, 1280, 4096]),
    "sd3-without-t5": (BASES["sd3"], [768, 1280]),
    "flux": (BASES["flux"], [768, 4096]),
}


_FITS = {("sd3", "sd3-without-t5")}


# Files that a tool without headers writes alike for both.
_SAME_KEYS = {("sdxl", "sd3-without-t5"), ("sd3-without-t5", "sdxl")}


@pytest.mark.parametrize(("made_for", "used_on"), list(permutations(_MODELS, 2)), ids=" on ".join)
@pytest.mark.parametrize("header", [True, False])
def test_an_embedding_for_another_model_is_refused(made_for: str, used_on: str, header: bool, tmp_path: Path) -> None:
    (base, widths), (other, other_widths) = _MODELS[made_for], _MODELS[used_on]
    before = Action("twa-leap", [torch.ones(2, width) for width in widths], "m@1")
    for path in export_embedding(before, base, tmp_path):
        if not header:
            save_file(load_file(path), path)

        def read(path: Path = path) -> Action:
            return import_embedding(path, other.family, name="back", model_id="m@2", widths=other_widths)

        if (made_for, used_on) in _FITS | (set() if header else _SAME_KEYS):
            assert [vectors.shape[1] for vectors in read().vectors] == other_widths
            continue
        with pytest.raises(CheckpointError, match=r"made for (another|stable|flux)") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("StableDiffusionXLPipeline", ["text_encoders_0", "text_encoders_1"]),  # diffusers' older pivotal tuning
        (SD, ["emp_params"]),  # as OneTrainer spells it
        (SD, ["<somebody>"]),
        (SD, ["bundle_emb.leap.string_to_param.*"]),
        ("StableDiffusionXLPipeline", ["bundle_emb.leap.clip_l", "bundle_emb.leap.clip_g"]),
        ("FluxPipeline", ["clip_l", "t5"]),
    ],
)
def test_spellings_of_other_tools(family: str, keys: list[str], tmp_path: Path) -> None:
    save_file({key: torch.full((2, 8), float(i)) for i, key in enumerate(keys)}, tmp_path / "x.safetensors")
    widths = [8] * len(LAYOUTS[family].keys)
    action = import_embedding(tmp_path / "x.safetensors", family, name="leap", model_id="m@1", widths=widths)
    assert [float(v[0, 0]) for v in action.vectors] == list(range(len(widths)))


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("StableDiffusionXLPipeline", ["clip_l", "clip_g", "clip_l_out"]),
        (
            "StableDiffusionXLPipeline",
            [f"bundle_emb.leap.clip_{end}" for end in ("l", "g", "g_out")],
        ),
        (SD, ["emp_params", "emp_params_out"]),
        ("FluxPipeline", ["clip_l", "t5", "t5_out"]),
        ("FluxPipeline", ["clip_l", "t5", "name"]),
        (SD, ["emb_params_out"]),
        ("StableDiffusionXLPipeline", ["clip_g_out"]),
    ],
)
def test_what_is_not_understood_is_refused_by_name(family: str, keys: list[str], tmp_path: Path) -> None:
    """OneTrainer's output embeddings, for example: what was learned is in them, and zeros in the others."""
    save_file({key: torch.zeros(2, 8) for key in keys}, tmp_path / "x.safetensors")
    widths = [8] * len(LAYOUTS[family].keys)
    with pytest.raises(CheckpointError, match=f"{keys[-1].rpartition('.')[2]}', which is not understood"):
        import_embedding(tmp_path / "x.safetensors", family, name="leap", model_id="m@1", widths=widths)


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        (SD, ["bundle_emb.{}.string_to_param.*"]),
        (SD, ["{}"]),
        ("StableDiffusionXLPipeline", ["bundle_emb.{}.clip_l", "bundle_emb.{}.clip_g"]),
    ],
)
def test_one_of_several_words_is_chosen(family: str, keys: list[str], tmp_path: Path) -> None:
    words = ["anna", "beach style", "v1.5"]
    path, widths = tmp_path / "x.safetensors", [8] * len(LAYOUTS[family].keys)
    save_file({key.format(word): torch.full((1, 8), float(i)) for i, word in enumerate(words) for key in keys}, path)

    def read(word: str | None) -> Action:
        return import_embedding(path, family, name="leap", model_id="m@1", widths=widths, word=word)

    assert [[float(v[0, 0]) for v in read(word).vectors] for word in words] == [
        [float(i)] * len(keys) for i in range(3)
    ]
    for asked, told in ((None, "holds several words"), ("anne", "does not hold the word 'anne'")):
        with pytest.raises(
            CheckpointError, match=rf"{told}; import it with --word and one of: anna, beach style, v1\.5"
        ):
            read(asked)
    if len(keys) == 2:  # parts of one missing are no mixture of two
        save_file({keys[0].format("anna"): torch.ones(1, 8), keys[1].format("bert"): torch.ones(1, 8)}, path)
        with pytest.raises(CheckpointError, match="no clip_g"):
            read("anna")


def test_a_word_is_the_same_however_its_letters_are_composed(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "mädchen") for form in ("NFC", "NFD"))
    save_file({composed: torch.ones(1, 8), "anna": torch.zeros(1, 8)}, tmp_path / "x.safetensors")
    found = import_embedding(tmp_path / "x.safetensors", SD, name="leap", model_id="m@1", widths=[8], word=apart)
    assert found.vectors[0].equal(torch.ones(1, 8))


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"emb_params": torch.tensor(1.0)}, r"float32 \(\), expected numbers \(vectors, 8\)"),
        ({"leap": torch.tensor(1.0)}, r"float32 \(\), expected"),
        ({"emb_params": torch.ones(2, 3, 8)}, r"\(2, 3, 8\), expected .* for every layer"),
        ({"emb_params": torch.ones(0, 8)}, r"\(0, 8\), expected"),
        ({"emb_params": torch.ones(2, 0)}, r"\(2, 0\), expected"),
        ({"emb_params": torch.ones(2, 8, dtype=torch.int64)}, "int64"),
        ({"emb_params": torch.full((2, 8), float("nan"))}, "emb_params holds numbers that are not finite"),
        ({}, "holds no tensors"),
    ],
)
def test_tensors_that_are_no_embedding_are_refused_by_name(
    tensors: dict[str, torch.Tensor], told: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=told):
        import_embedding(tmp_path / "x.safetensors", SD, name="leap", model_id="m@1", widths=[8])


def test_vectors_that_disagree_are_refused(tmp_path: Path) -> None:
    save_file(
        {"t5xxl": torch.ones(1, 8), "t5": torch.zeros(1, 8), "clip_l": torch.ones(1, 8)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(CheckpointError, match="different vectors under t5xxl and t5"):
        import_embedding(tmp_path / "x.safetensors", "FluxPipeline", name="leap", model_id="m@1", widths=[8, 8])


@pytest.mark.parametrize("shape", [(8,), (1, 8)])
@pytest.mark.parametrize("name", ["stable-diffusion-v1", "Stable-Diffusion-v1"])
def test_one_vector_and_the_header_of_onetrainer_are_read(shape: tuple[int, ...], name: str, tmp_path: Path) -> None:
    header = {"modelspec.architecture": f"{name}/embedding"}
    save_file({"emp_params": torch.ones(shape)}, tmp_path / "x.safetensors", metadata=header)
    action = import_embedding(tmp_path / "x.safetensors", SD, name="leap", model_id="m@1", widths=[8])
    assert action.vectors[0].equal(torch.ones(1, 8))
    save_file({"clip_l": torch.ones(shape), "t5": torch.ones(shape)}, tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="says that it is made for stable-diffusion-v1, not for FluxPipeline"):
        import_embedding(tmp_path / "x.safetensors", "FluxPipeline", name="leap", model_id="m@1", widths=[8, 8])


@pytest.mark.parametrize("word", ["exploration", "<flora>", "soft_light", "lora", "lora_girl", "soft_weight"])
def test_words_that_look_like_an_adapter_are_embeddings(word: str, tmp_path: Path) -> None:
    vectors = torch.randn(2, 32)
    save_file({word: vectors}, tmp_path / "x.safetensors")
    action = import_action(tmp_path / "x.safetensors", SD, name="back", backbone=backbone_of("sd"))
    assert torch.equal(action.vectors[0], vectors) and not action.lora
