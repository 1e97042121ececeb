"""What the distilled FLUX.2 klein and its text encoder do that no other family does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from families import backbone_of, pixels
from tiny import tiny_klein
from tiny_tokenizers import tiny_qwen_tokenizer
from twinact.action import Action
from twinact.backbones import load
from twinact.backbones.flux2 import LAYERS, Flux2Klein
from twinact.errors import CheckpointError, ConfigError
from twinact.export import Base, export_embedding, import_action
from twinact.sample import generate


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "klein"
    tiny_klein(distilled=True).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_distilled_model_draws_without_guidance(distilled: Path) -> None:
    backbone = load(distilled, "cpu")
    assert backbone.guidance == 1.0 and backbone.pipeline().config.is_distilled
    assert (backbone.passes_a_step(4.0), backbone_of("klein").passes_a_step(4.0)) == (1, 2)
    stock = backbone.pipeline()
    stock.set_progress_bar_config(disable=True)
    drawing = {"generator": [torch.Generator().manual_seed(1)], "num_inference_steps": 2, "height": 32, "width": 32}
    expected = stock(prompt=["a cat"], guidance_scale=1.0, **drawing).images
    assert np.array_equal(pixels(generate(backbone, ["a cat"], seeds=[1], steps=2)), pixels(expected))
    with pytest.raises(ConfigError, match=r"negative prompt 'a park' cannot be used: .* is distilled"):
        generate(backbone, ["a cat"], seeds=[1], steps=2, negative_prompt="a park")


def test_exports_tell_base_and_distilled_apart(distilled: Path, tmp_path: Path) -> None:
    tiny_klein().save_pretrained(tmp_path)
    assert Base.of(distilled).architecture == "flux-2-klein-4b"
    assert Base.of(tmp_path).architecture == "flux-2-klein-base-4b"


def test_z_image_reads_the_words_of_a_klein_with_the_same_text_encoder(tmp_path: Path) -> None:
    (table,) = backbone_of("klein").token_tables()
    action = Action("twa-leap", [table.embed("jumping red")], "klein@0")
    (path,) = export_embedding(action, Base("Flux2KleinPipeline", "flux-2-klein-base-4b"), tmp_path)
    back = import_action(path, "ZImagePipeline", name="leap", backbone=backbone_of("z-image"))
    assert torch.equal(back.vectors[0], action.vectors[0])


@pytest.mark.slow
def test_layers_that_nobody_reads_are_gone_and_the_saved_model_is_the_same(tmp_path: Path) -> None:
    whole = tiny_klein()
    assert len(whole.text_encoder.model.layers) == 30
    backbone = Flux2Klein(whole, "klein@0")
    kept = backbone.pipeline().text_encoder.model.layers
    assert len(kept) == max(LAYERS) + 1
    backbone.pipeline().save_pretrained(tmp_path)
    again = load(tmp_path, "cpu")
    assert len(again.pipeline().text_encoder.model.layers) == len(kept)
    torch.testing.assert_close(again.encode_text(["a cat"]).hidden, backbone_of("klein").encode_text(["a cat"]).hidden)


def test_the_layer_that_is_only_kept_gets_no_gradient() -> None:
    backbone = Flux2Klein(tiny_klein(), "klein@0")
    layers = backbone.pipeline().text_encoder.model.layers
    for layer in layers:
        layer.mlp.down_proj.weight.requires_grad_(True)
    backbone.encode_text(["a cat"]).hidden.square().mean().backward()
    with_gradient = [layer.mlp.down_proj.weight.grad is not None for layer in layers]
    assert with_gradient == [True] * max(LAYERS) + [False]


def test_models_that_do_not_fit_are_refused() -> None:
    pipeline = tiny_klein()
    pipeline.text_encoder.model.layers = pipeline.text_encoder.model.layers[:20]
    with pytest.raises(ConfigError, match="has 20 layers and this family reads the output of layer 27"):
        Flux2Klein(pipeline, "klein@0")
    pipeline = tiny_klein()
    pipeline.tokenizer.chat_template = None
    with pytest.raises(CheckpointError, match="tokenizer of model 'klein@0' has no chat template"):
        Flux2Klein(pipeline, "klein@0")


def test_padding_on_the_left_is_read_as_the_stock_pipeline_reads_it() -> None:
    pipeline, prompts = tiny_klein(), ["a robot jumping in a park", "a cat"]
    pipeline.tokenizer.padding_side = "left"
    backbone = Flux2Klein(pipeline, "klein@0")
    with torch.no_grad():
        expected, _ = backbone.pipeline().encode_prompt(prompts, device="cpu")
    assert torch.equal(backbone.encode_text(prompts).hidden, expected)
    (table,) = backbone.token_tables()
    vectors = {"<act>": [table.embed("jumping")]}
    spelled = backbone.encode_text(["a robot <act> in a park", "a cat"], vectors).hidden
    torch.testing.assert_close(spelled, expected)


def test_words_are_looked_up_as_they_stand_inside_of_a_prompt() -> None:
    (table,) = backbone_of("klein").token_tables()
    tokenizer = tiny_qwen_tokenizer()
    assert tokenizer.convert_ids_to_tokens(table.ids("red dress")) == ["Ġred", "Ġdress"]
    assert tokenizer.convert_ids_to_tokens(table.ids("red dress", as_written=True)) == ["r", "e", "d", "Ġdress"]
    assert table.ids("") == [] and backbone_of("sd").token_tables()[0].space == ""
