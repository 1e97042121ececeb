"""What every backbone owes to its stock pipeline: the same texts, predictions and pictures, and the right gradients."""

import inspect
import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn

from families import CORE, FAMILIES, backbone_of, modules, noisy, pixels, stock_of, stock_text, times, vectors_of
from twinact.backbones.text import splice, written
from twinact.errors import ConfigError, DataError, TwinactError
from twinact.sample import generate

PROMPTS = [
    "a robot jumping in a park",
    "",
    "A  ROBOT's <odd> prompt: 3 cats,\n[zebra]! café",
    "the cat in the red dress on the moon with a dog in the city in the park in the moon of the red dog and more",
    "cat " * 600,  # too long even for T5
]
ALL = pytest.mark.parametrize("name", list(FAMILIES))


@pytest.mark.slow_but("sd")
@ALL
def test_text_without_placeholder_equals_stock_bit_for_bit(name: str) -> None:
    backbone = backbone_of(name)
    expected = stock_text(name, stock_of(name), PROMPTS)
    unused = {"<act>": [torch.zeros(3, table.width) for table in backbone.token_tables()]}
    for cond in (backbone.encode_text(PROMPTS), backbone.encode_text(PROMPTS, unused)):
        assert torch.equal(cond.hidden, expected.hidden)
        assert (cond.pooled is None) == (expected.pooled is None)
        if cond.pooled is not None:
            assert torch.equal(cond.pooled, expected.pooled)
        assert (cond.mask is None) == (expected.mask is None)
        if cond.mask is not None:
            assert torch.equal(cond.mask, expected.mask)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a robot <act> in a park", {"<act>": "cat"}),
        ("<act>", {"<act>": "cat dog"}),
        ("a <ACT>, in the city", {"<ACT>": "red dress"}),  # upper case and several vectors
        ("a<act>man", {"<act>": "cat"}),
        ("<who> <act> on the moon with <who>", {"<act>": "jumping", "<who>": "robot dog"}),
        ("@act@act2", {"@act": "cat", "@act2": "dog"}),  # one begins with the other
    ],
)
@ALL
def test_known_words_as_vectors_equal_the_words(name: str, prompt: str, words: dict[str, str]) -> None:
    """Also the pooled text, which would be another one if it were taken anywhere but at the end of the text."""
    backbone = backbone_of(name)
    spelled = prompt
    for placeholder in sorted(words, key=len, reverse=True):
        spelled = spelled.replace(placeholder, f" {words[placeholder]} ")
    if backbone.token_tables()[0].space:  # where spaces count, there is one between words and none elsewhere
        spelled = re.sub(r"\s+", " ", spelled.rstrip()).replace(" ,", ",")
    vectors = {placeholder: vectors_of(backbone, text) for placeholder, text in words.items()}
    cond = backbone.encode_text([prompt, "a dog"], vectors)  # in one batch with a prompt that has no placeholder
    expected = stock_text(name, stock_of(name), [spelled, "a dog"])
    assert torch.equal(cond.hidden, expected.hidden)
    if cond.pooled is not None:
        assert torch.equal(cond.pooled, expected.pooled)


@ALL
def test_vectors_leave_no_trace(name: str) -> None:
    backbone = backbone_of(name)
    before = backbone.token_tables()
    weights, sizes = [table.weight.clone() for table in before], [len(table.tokenizer) for table in before]
    plain = backbone.encode_text(["a <act> dog"]).hidden
    assert not torch.equal(
        backbone.encode_text(["a <act> dog"], {"<act>": [torch.ones(3, table.width) for table in before]}).hidden, plain
    )
    for table, weight, size in zip(backbone.token_tables(), weights, sizes, strict=True):
        assert torch.equal(table.weight, weight)  # nor fewer rows, where the table is longer than the vocabulary
        assert len(table.tokenizer) == size
    assert torch.equal(backbone.encode_text(["a <act> dog"]).hidden, plain)


@ALL
def test_long_prompt_is_cut_after_the_placeholder_only(name: str, caplog: pytest.LogCaptureFixture) -> None:
    backbone = backbone_of(name)
    vectors = {"<act>": [torch.zeros(3, table.width) for table in backbone.token_tables()]}
    encoders, family = backbone.token_tables(), FAMILIES[name]
    reads = zip(encoders, family.reads, strict=True)
    rooms = [length - len(table.tokenizer("").input_ids) for table, length in reads]
    around = [len(encoders[0].ids(part, as_written=True)) for part in family.template]
    fits = "a " * (rooms[0] - sum(around) - 3) + "<act>"
    with caplog.at_level(logging.WARNING):
        backbone.encode_text([fits], vectors)
        assert not caplog.records
        backbone.encode_text([f"{fits} in a park"], vectors)
    assert caplog.records
    assert around[1] or "in a park" in caplog.text
    # Where T5 reads on, it is T5 that must find the placeholder.
    furthest = rooms.index(max(rooms))
    words = rooms[furthest] - around[0] - 3
    backbone.encode_text(["a " * words + "<act>"], vectors)
    told = f"puts <act> beyond the {rooms[furthest]} tokens that {encoders[furthest].name} reads"
    with pytest.raises(DataError, match=told):
        backbone.encode_text(["a " * (words + 1) + "<act>"], vectors)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_what_clip_does_not_read_reaches_t5(name: str) -> None:
    """Each encoder reads the prompt as the stock one does, which cuts it for CLIP and not for T5."""
    backbone = backbone_of(name)
    before = "cat " * 30
    cond = backbone.encode_text([before + "<act>"], {"<act>": vectors_of(backbone, "red robot")})
    expected = stock_text(name, stock_of(name), [before + "red robot"])
    assert torch.equal(cond.hidden, expected.hidden)
    assert torch.equal(cond.pooled, expected.pooled)


@ALL
def test_vectors_of_another_model_are_refused(name: str) -> None:
    backbone = backbone_of(name)
    widths = [table.width for table in backbone.token_tables()]
    with pytest.raises(DataError, match=f"8 wide and text_encoder takes {widths[0]}"):
        backbone.encode_text(["<act>"], {"<act>": [torch.zeros(3, 8), *(torch.zeros(3, w) for w in widths[1:])]})
    count = len(widths)
    with pytest.raises(DataError, match=f"vectors for {count + 1} text encoders and {name}@0 has {count}"):
        backbone.encode_text(["<act>"], {"<act>": [torch.zeros(3, w) for w in [*widths, 8]]})


@pytest.mark.slow
@ALL
def test_gradient_reaches_every_number_of_every_encoder_and_is_right(name: str) -> None:
    family = FAMILIES[name]
    backbone = family.backbone(family.make().to(dtype=torch.float64), name)
    start = [value.clone() for value in vectors_of(backbone, "cat dog red")]
    x_t, t = noisy(backbone).double(), times(backbone, 0.1, 0.9)

    def loss(values: list[Tensor]) -> Tensor:
        cond = backbone.encode_text(["a robot <act> in a park", "a <act>"], {"<act>": values})
        return backbone.predict(x_t, t, cond).square().mean()

    values = [value.clone().requires_grad_() for value in start]
    loss(values).backward()
    generator = torch.Generator().manual_seed(2)
    for index, value in enumerate(values):
        assert value.grad is not None
        assert value.grad.ne(0).all()
        # Along the gradient, as random directions would drown in what the models round to float32 inside.
        direction = value.grad + value.grad.norm() * torch.randn(value.shape, dtype=torch.float64, generator=generator)
        direction = direction / direction.norm()
        step = 1e-2 * float(value.detach().norm())

        def moved(by: float, index: int = index, direction: Tensor = direction) -> float:
            with torch.no_grad():
                shifted = [v + by * direction if i == index else v for i, v in enumerate(start)]
                return float(loss(shifted))

        # Fourth order, so that the step may be large.
        numeric = (8 * (moved(step) - moved(-step)) - moved(2 * step) + moved(-2 * step)) / (12 * step)
        assert float((value.grad * direction).sum()) == pytest.approx(numeric, rel=5e-3), index
    assert all(parameter.grad is None for parameter in backbone.denoiser.parameters())


@ALL
def test_predict_calls_the_denoiser_as_the_stock_pipeline_does(name: str) -> None:
    backbone = backbone_of(name)
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    handle = backbone.denoiser.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((args, kwargs, output[0])), with_kwargs=True
    )
    # Classifier-free guidance is off, and the distilled one is as in learning.
    pipeline = backbone.pipeline()
    call_stock(pipeline, name, ["a cat"], [3], guidance=FAMILIES[name].unguided, steps=3)
    handle.remove()
    args, kwargs, expected = calls[-1]
    x_t = args[0] if args else kwargs["hidden_states"]
    t = pipeline.scheduler.timesteps[-1:].to(times(backbone, 0.0).dtype)
    _, h, w = backbone.latent_shape
    if name == "z-image":  # lists of films of one picture, and the way back
        x_t, expected = torch.stack(x_t).squeeze(2), -torch.stack(expected).squeeze(2)
    elif name == "klein":
        x_t, expected = (tokens.transpose(1, 2).reshape(1, -1, h, w) for tokens in (x_t, expected))
    elif x_t.ndim == 3:
        x_t, expected = (pipeline._unpack_latents(packed, 4 * h, 4 * w, 4) for packed in (x_t, expected))
    predicted = backbone.predict(x_t, t, backbone.encode_text(["a cat"]))
    assert torch.equal(predicted, expected)
    assert predicted.shape == (1, *backbone.latent_shape)


def call_stock(
    pipeline: DiffusionPipeline,
    name: str,
    prompts: list[str],
    seeds: list[int],
    *,
    guidance: float,
    steps: int,
    **options: Any,
) -> list[Image.Image]:
    """Pictures of a stock pipeline of a family, called as its documentation says."""
    pipeline.set_progress_bar_config(disable=True)
    side = backbone_of(name).image_size
    return pipeline(
        prompt=prompts,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=steps,
        guidance_scale=guidance,
        height=side,
        width=side,
        **FAMILIES[name].text,
        **options,
    ).images


@ALL
def test_without_vectors_generate_is_the_stock_pipeline(name: str) -> None:
    # With the backbone's modules: convolutions of equal weights elsewhere in memory may differ in the last bit.
    backbone = backbone_of(name)
    stock = backbone.pipeline()
    prompts, seeds = ["a cat", "a dog"], [1, 2]
    plain = pixels(generate(backbone, prompts, seeds=seeds, steps=2, guidance=3.0))
    assert np.array_equal(plain, pixels(call_stock(stock, name, prompts, seeds, guidance=3.0, steps=2)))
    if not FAMILIES[name].negative:
        with pytest.raises(ConfigError, match="negative prompt 'a park' cannot be used"):
            generate(backbone, prompts, seeds=seeds, steps=2, negative_prompt="a park")
        return
    led = pixels(generate(backbone, prompts, seeds=seeds, steps=2, guidance=3.0, negative_prompt="a park"))
    away = {"negative_prompt": ["a park"] * 2}
    if name == "klein":  # its stock pipeline takes no words for it
        away = {"negative_prompt_embeds": stock_text(name, stock, ["a park"] * 2).hidden}
    expected = call_stock(stock, name, prompts, seeds, guidance=3.0, steps=2, **away)
    assert np.array_equal(led, pixels(expected))
    assert (led != plain).any()


@pytest.mark.slow_but("sd")
@ALL
def test_pictures_depend_on_vectors_and_seed_but_not_on_their_batch(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    backbone = backbone_of(name)
    vectors = {"<act>": vectors_of(backbone, "jumping red dog")}
    prompts = ["a robot <act>", "<act> on the moon", "a cat <act>"]
    together = pixels(generate(backbone, prompts, vectors, seeds=[1, 2, 3], steps=2))
    assert np.array_equal(together, pixels(generate(backbone, prompts, vectors, seeds=[1, 2, 3], steps=2)))
    apart = pixels(generate(backbone, prompts, vectors, seeds=[1, 2, 3], steps=2, batch_size=1))
    # Sums of a batch run in another order than those of one picture: at most the last bit of a pixel.
    assert np.abs(together - apart).max() <= 1
    assert (
        (together != pixels(generate(backbone, prompts, vectors, seeds=[4, 5, 6], steps=2))).any(axis=(1, 2, 3)).all()
    )
    far = {"<act>": [-20 * value for value in vectors["<act>"]]}
    assert (together != pixels(generate(backbone, prompts, far, seeds=[1, 2, 3], steps=2))).any()
    assert capfd.readouterr() == ("", "")


@ALL
def test_pipelines_share_modules_and_not_the_scheduler(name: str) -> None:
    backbone = backbone_of(name)
    first, second = backbone.pipeline(), backbone.pipeline()
    assert type(first) is type(stock_of(name))
    assert first.config == stock_of(name).config
    assert modules(first).keys() == modules(stock_of(name)).keys()
    assert all(modules(second)[part] is module for part, module in modules(first).items())
    assert backbone.denoiser in modules(first).values()
    assert first.scheduler is not second.scheduler
    assert first.scheduler.config == second.scheduler.config
    for module in modules(first).values():
        assert not module.training  # T5 would drop out
        assert not any(parameter.requires_grad for parameter in module.parameters())


@ALL
def test_latents_are_as_the_stock_pipeline_reads_them(name: str) -> None:
    backbone, vae = backbone_of(name), stock_of(name).vae
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = backbone.encode_image(images)
    assert latents.shape[1:] == backbone.latent_shape == FAMILIES[name].latent_shape
    assert backbone.image_size == 32
    assert torch.equal(latents, backbone.encode_image(images))  # the mean, not a sample
    encoded = vae.encode(images)
    raw = encoded.latents if name == "sd2" else encoded.latent_dist.mode()
    if name == "klein":
        scaled = stock_of(name)._encode_vae_image(images, None)
    else:
        assert vae.config.scaling_factor != 1
        scaled = (raw - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    torch.testing.assert_close(latents, scaled)
    torch.testing.assert_close(backbone.decode_latents(latents), vae.decode(raw).sample, rtol=1e-4, atol=1e-5)


@ALL
def test_usual_guidance_is_the_stock_pipelines(name: str) -> None:
    assert backbone_of(name).guidance == inspect.signature(stock_of(name).__call__).parameters["guidance_scale"].default


@ALL
def test_token_tables_name_the_pipelines_encoders(name: str) -> None:
    backbone, stock = backbone_of(name), stock_of(name)
    tables = backbone.token_tables()
    assert [table.name for table in tables] == sorted(part for part in modules(stock) if "text_encoder" in part)
    for table in tables:
        encoder = getattr(stock, table.name)
        assert torch.equal(table.weight, encoder.get_input_embeddings().weight)
        assert table.embed("red dress").shape == (2, table.width)


@ALL
def test_lora_targets_are_all_of_attention_and_nothing_else(name: str) -> None:
    backbone = backbone_of(name)
    linear = [f".{path}" for path, module in backbone.denoiser.named_modules() if isinstance(module, nn.Linear)]
    ends = tuple("." + target for target in backbone.lora_targets)
    assert all(any(path.endswith(end) for path in linear) for end in ends)
    adapted = {path for path in linear if path.endswith(ends)}
    assert adapted == {path for path in linear if re.search(r"\.(attn\d?|attention)\.(?!norm)", path)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CORE)
def test_lora_on_the_targets_starts_as_nothing_and_learns(name: str) -> None:
    family = FAMILIES[name]
    backbone = family.backbone(family.make(), name)
    x_t, t, cond = noisy(backbone), times(backbone, 0.1, 0.9), backbone.encode_text(["a cat", "a dog"])
    before = backbone.predict(x_t, t, cond)
    backbone.denoiser.add_adapter(LoraConfig(r=2, target_modules=list(backbone.lora_targets)))
    after = backbone.predict(x_t, t, cond)
    torch.testing.assert_close(after, before)
    after.square().mean().backward()
    learned = {path: p.grad for path, p in backbone.denoiser.named_parameters() if p.requires_grad}
    assert learned and all("lora_" in path and gradient is not None for path, gradient in learned.items())
    # The last block of SD3 drops its text, so what only makes queries for that has nothing to learn.
    assert any(gradient is not None and gradient.any() for gradient in learned.values())


def test_vectors_that_reach_nothing_are_an_error() -> None:
    """As they would if an encoder looked its tokens up elsewhere than in the module that is written to."""
    backbone = backbone_of("sd")
    table = backbone.token_tables()[0]
    spliced = splice(table, ["a <act>"], {"<act>": torch.zeros(1, table.width)}, 24)
    with (
        pytest.raises(TwinactError, match="learned vectors cannot be put into a CLIPTextModel"),
        written(backbone.pipeline().text_encoder, spliced),
    ):
        pass
