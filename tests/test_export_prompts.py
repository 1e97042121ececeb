"""The workflow and the prompt beside an export: they name the files that were written, and their nodes fit together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from families import BASES
from twinact.action import Action
from twinact.errors import ConfigError
from twinact.export import LAYOUTS, Base, embedding_contents, lora_contents, trigger
from twinact.export.prompts import prompt_contents
from twinact.lora import DOWN, UP

# Built-in nodes of ComfyUI's nodes.py and comfy_extras, told again: what each needs, and what it gives.
NODES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "CheckpointLoaderSimple": ({"ckpt_name": "str"}, ("MODEL", "CLIP", "VAE")),
    "UNETLoader": ({"unet_name": "str", "weight_dtype": "str"}, ("MODEL",)),
    "CLIPLoader": ({"clip_name": "str", "type": "str"}, ("CLIP",)),
    "VAELoader": ({"vae_name": "str"}, ("VAE",)),
    "LoraLoader": (
        {"model": "MODEL", "clip": "CLIP", "lora_name": "str", "strength_model": "float", "strength_clip": "float"},
        ("MODEL", "CLIP"),
    ),
    "CLIPTextEncode": ({"text": "str", "clip": "CLIP"}, ("CONDITIONING",)),
    "FluxGuidance": ({"conditioning": "CONDITIONING", "guidance": "float"}, ("CONDITIONING",)),
    **dict.fromkeys(
        ("EmptyLatentImage", "EmptySD3LatentImage", "EmptyFlux2LatentImage"),
        ({"width": "int", "height": "int", "batch_size": "int"}, ("LATENT",)),
    ),
    "KSampler": (
        {
            "seed": "int", "steps": "int", "cfg": "float", "sampler_name": "str", "scheduler": "str",
            "denoise": "float", "model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING",
            "latent_image": "LATENT",
        },
        ("LATENT",),
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "SaveImage": ({"filename_prefix": "str", "images": "IMAGE"}, ()),
}  # fmt: skip
LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def action(base: Base, lora: bool = False) -> Action:
    weights = {LAYER + DOWN: torch.ones(1, 8), LAYER + UP: torch.ones(8, 1)} if lora else {}
    return Action("leap", [torch.ones(2, 8) for _ in LAYOUTS[base.family].keys], "m@1", lora=weights)


def kind_of(value: Any, nodes: dict[str, Any]) -> str:
    """The kind of an input: a plain value, or what another node gives."""
    if not isinstance(value, list):
        return type(value).__name__
    number, output = value
    return NODES[nodes[number]["class_type"]][1][output]


@pytest.mark.parametrize(
    ("name", "lora"), [(name, False) for name in BASES if name != "z-image"] + [("sd", True), ("sdxl", True)]
)
def test_the_nodes_of_a_workflow_fit_together(name: str, lora: bool, tmp_path: Path) -> None:
    base = BASES[name]
    contents = prompt_contents(action(base, lora), base, tmp_path)
    nodes = json.loads(contents[tmp_path / "twa-leap.comfyui.json"])
    for node in nodes.values():
        needs = NODES[node["class_type"]][0]
        assert {key: kind_of(value, nodes) for key, value in node["inputs"].items()} == needs, node
    texts = [node["inputs"]["text"] for node in nodes.values() if node["class_type"] == "CLIPTextEncode"]
    assert texts == ["a panda embedding:twa-leap in a park", ""]
    assert [node["class_type"] for node in nodes.values()].count("SaveImage") == 1
    assert ("LoraLoader" in {node["class_type"] for node in nodes.values()}) == lora


@pytest.mark.parametrize("architecture", ["flux-1-schnell", "stable-diffusion-v3.5-large", "stable-diffusion-v2-768-v"])
def test_all_architectures_have_a_workflow(architecture: str, tmp_path: Path) -> None:
    family = {"f": BASES["flux"], "3": BASES["sd3"], "2": BASES["sd"]}[
        "f" if architecture.startswith("f") else architecture[18]
    ].family
    base = Base(family, architecture)
    assert tmp_path / "twa-leap.comfyui.json" in prompt_contents(action(base), base, tmp_path)


def test_prompts_name_files_that_were_written(tmp_path: Path) -> None:
    base = BASES["sd"]
    made = action(base, lora=True)
    contents = prompt_contents(made, base, tmp_path)
    written = embedding_contents(made, base, tmp_path) | lora_contents(made, base, tmp_path)
    stems = {path.stem for path in written}
    nodes = json.loads(contents[tmp_path / "twa-leap.comfyui.json"])
    (lora,) = [node["inputs"]["lora_name"] for node in nodes.values() if node["class_type"] == "LoraLoader"]
    assert lora in {path.name for path in written}
    prompt = contents[tmp_path / "twa-leap.a1111.txt"].decode()
    assert prompt.startswith("<lora:twa-leap-lora:1> a panda twa-leap in a park\nNegative prompt: \nSteps: 30, ")
    assert {"twa-leap-lora", "twa-leap"} <= stems


def test_stems_do_not_collide(tmp_path: Path) -> None:
    """ComfyUI takes the first file of a name in a random walk of its sub-folders."""
    base = BASES["sd"]
    made = action(base, lora=True)
    stems = [path.stem for path in embedding_contents(made, base, tmp_path) | lora_contents(made, base, tmp_path)]
    assert len(stems) == len(set(stems)) == 5
    for taken in ("leap-lora", "leap-bundle"):  # whose word would be the stem of a LoRA of leap
        assert trigger(made.name) + taken.removeprefix("leap") in stems
        with pytest.raises(ConfigError, match="copy it to another name"):
            embedding_contents(Action(taken, made.vectors, made.model_id), base, tmp_path)


@pytest.mark.parametrize(
    ("name", "word"),
    [("leap", "twa-leap"), ("twa-leap", "twa-leap"), ("leap-2", "twa-leap-two"), ("leap_1", "twa-leap-one"),
     ("leap2b", "twa-leap-two-b"), ("a10", "twa-a-one-zero"), ("high_kick-", "twa-high-kick")],
)  # fmt: skip
def test_words_have_letters_and_hyphens_only(name: str, word: str) -> None:
    assert trigger(name) == word


@pytest.mark.parametrize(
    ("name", "told"), [("leap_lora", "copy it to another name"), ("a1234567", "'twa-a-one-two-.*copy it to a shorter")]
)
def test_words_that_cannot_be_are_refused(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        trigger(name)


def test_who_reads_no_words_gets_no_prompt(tmp_path: Path) -> None:
    assert not prompt_contents(action(BASES["z-image"]), BASES["z-image"], tmp_path)
    (only,) = prompt_contents(action(BASES["flux"]), BASES["flux"], tmp_path)
    assert only.name == "twa-leap.comfyui.json"
