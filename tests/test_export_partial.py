"""Embeddings for some of a model's text encoders: the others read the word as it is written."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from families import PIPELINES, backbone_of
from twinact.action import Action
from twinact.errors import CheckpointError, ConfigError
from twinact.export import import_action
from twinact.jobs.models import load_actor
from twinact.sample import generate


@pytest.mark.parametrize(
    ("name", "keys", "plain"),
    [
        ("sdxl", {"<cat-toy>": 32}, [1]),  # diffusers' script of textual inversion
        ("sdxl", {"<cat-toy>": 48}, [0]),  # and what it writes for the second encoder
        ("sdxl", {"clip_l": 32}, [1]),
        ("flux", {"clip_l": 32}, [1]),
        ("flux", {"t5xxl": 64}, [0]),
        ("sd3", {"clip_l": 32, "clip_g": 48}, [2]),
        ("sd3", {"clip_l": 32}, [1, 2]),
        ("sdxl", {"bundle_emb.cat toy.clip_g": 48}, [0]),
    ],
)
def test_the_other_encoders_read_plain_words(name: str, keys: dict[str, int], plain: list[int], tmp_path: Path) -> None:
    backbone, path = backbone_of(name), tmp_path / "cat_toy.safetensors"
    save_file({key: torch.full((2, width), 0.1) for key, width in keys.items()}, path)
    action = import_action(path, PIPELINES[name], name="toy", backbone=backbone)
    assert action.meta["plain"] == plain
    for index, (table, vectors) in enumerate(zip(backbone.token_tables(), action.vectors, strict=True)):
        expected = table.embed("cat toy") if index in plain else torch.full((2, table.width), 0.1)
        assert torch.equal(vectors, expected)
    action.save(tmp_path / "toy.action.safetensors")
    loaded = Action.load(tmp_path / "toy.action.safetensors")
    generate(backbone, ["a photo of <act>"], {"<act>": loaded.vectors}, seeds=[0], steps=1)


def test_several_files_make_one_word(tmp_path: Path) -> None:
    backbone = backbone_of("sdxl")
    paths = [tmp_path / name for name in ("learned_embeds.safetensors", "learned_embeds_2.safetensors")]
    for path, width in zip(paths, (32, 48), strict=True):
        save_file({"<cat-toy>": torch.full((2, width), 0.1)}, path)
    model = tmp_path / "model"
    backbone.pipeline().save_pretrained(model)
    for order in (paths, paths[::-1]):
        actor = load_actor(order, backbone, model)
        assert [tuple(vectors.shape) for vectors in actor.vectors] == [(2, 32), (2, 48)]
        assert all(bool((vectors == 0.1).all()) for vectors in actor.vectors)
    with pytest.raises(ConfigError, match="more than one embedding for a text encoder"):
        load_actor([paths[0], paths[0]], backbone, model)


def test_files_of_other_families_stay_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for name, keys in (
        ("sd3", {"clip_l": 32, "t5xxl": 96}),  # of FLUX
        ("sdxl", {"emb_params": 32}),
        ("flux", {"clip_l": 32, "clip_g": 48}),
        ("sdxl", {"<cat>": 77}),
    ):
        save_file({key: torch.ones(1, width) for key, width in keys.items()}, path)
        with pytest.raises(CheckpointError, match="another family"):
            import_action(path, PIPELINES[name], name="toy", backbone=backbone_of(name))
