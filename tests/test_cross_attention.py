"""Texts of their own for layers and times, and LoRAs that act at an action's tokens alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from families import FAMILIES, backbone_of, noisy, pixels, stock_of, times, vectors_of
from tiny import tiny_sd
from twinact import PLACEHOLDER, lora
from twinact.backbones.backbone import Backbone
from twinact.backbones.cross_attention import TIMES, time_number
from twinact.backbones.memory import Savings
from twinact.backbones.sd import StableDiffusion
from twinact.backbones.token_lora import TokenLora, at
from twinact.errors import DataError, TwinactError
from twinact.lora import DOWN, UP
from twinact.sample import generate

UNETS = ("sd", "sd2", "sdxl")
PROMPTS = [f"a robot {PLACEHOLDER} in the park", f"a cat {PLACEHOLDER}"]


def by_layer(backbone: Backbone, *leading: int, spread: float = 0.5) -> list[Tensor]:
    """Vectors around the embeddings of two words, different in everything that is counted."""
    generator = torch.Generator().manual_seed(7)
    return [
        own + spread * own.std() * torch.randn(*leading, *own.shape, generator=generator)
        for own in vectors_of(backbone, "jumping dog")
    ]


def predicted(backbone: Backbone, vectors: list[Tensor], t: Tensor, prompts: list[str] = PROMPTS) -> Tensor:
    cond = backbone.encode_text(prompts, {PLACEHOLDER: vectors})
    return backbone.predict(noisy(backbone), t, cond)


@contextmanager
def each_layer_told(backbone: Backbone, texts: list[Tensor]) -> Iterator[None]:
    """While open, the layers read these texts whatever the denoiser is given; apart from how long texts are made."""

    def tell(text: Tensor):
        return lambda module, args, options: (args, {**options, "encoder_hidden_states": text})

    names = list(backbone.cross_attention)
    handles = [
        backbone.denoiser.get_submodule(name).register_forward_pre_hook(tell(text), with_kwargs=True)
        for name, text in zip(names, texts, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_layers_are_counted_in_the_order_in_which_they_are_run() -> None:
    assert [name.partition(".")[0] for name in backbone_of("sd").cross_attention] == [
        "down_blocks", "mid_block", "up_blocks", "up_blocks",
    ]  # fmt: skip
    ran: list[str] = []
    handles = [
        backbone_of("sdxl").denoiser.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
        for name in backbone_of("sdxl").cross_attention
    ]
    predicted(backbone_of("sdxl"), vectors_of(backbone_of("sdxl"), "dog"), times(backbone_of("sdxl"), 0.1, 0.9))
    for handle in handles:
        handle.remove()
    assert ran == list(backbone_of("sdxl").cross_attention)


@pytest.mark.parametrize("family", UNETS)
def test_every_layer_reads_its_own_text(family: str) -> None:
    backbone = backbone_of(family)
    vectors, t = by_layer(backbone, len(backbone.cross_attention)), times(backbone, 0.3, 0.8)
    texts = [
        backbone.encode_text(PROMPTS, {PLACEHOLDER: [own[layer] for own in vectors]})
        for layer in range(len(backbone.cross_attention))
    ]
    cond = backbone.encode_text(PROMPTS, {PLACEHOLDER: vectors})
    whole = backbone.predict(noisy(backbone), t, cond)
    pooled = None if cond.pooled is None else torch.stack([text.pooled for text in texts]).mean(dim=0)
    told = type(cond)(texts[0].hidden, pooled)
    with each_layer_told(backbone, [text.hidden for text in texts]):
        expected = backbone.predict(noisy(backbone), t, told)
    torch.testing.assert_close(whole, expected)
    assert not torch.allclose(whole, backbone.predict(noisy(backbone), t, told), atol=1e-4)


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("family", UNETS)
def test_every_picture_reads_the_texts_of_its_time(family: str) -> None:
    backbone = backbone_of(family)
    noisiest = int(backbone.noising.noisiest(1))
    vectors, t = by_layer(backbone, TIMES, len(backbone.cross_attention)), times(backbone, 0.3, 0.8)
    together = backbone.predict(noisy(backbone), t, backbone.encode_text(PROMPTS, {PLACEHOLDER: vectors}))
    numbers = time_number(t, noisiest).tolist()
    assert numbers[0] != numbers[1]
    for row, number in enumerate(numbers):
        own = backbone.encode_text(PROMPTS, {PLACEHOLDER: [block[number] for block in vectors]})
        if own.pooled is None:  # what is pooled is the mean over all times
            alone = backbone.predict(noisy(backbone), t, own)
            torch.testing.assert_close(together[row], alone[row])
    assert time_number(torch.tensor([0, noisiest]), noisiest).tolist() == [0, TIMES - 1]


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("family", UNETS)
def test_equal_vectors_for_all_are_the_same_vectors(family: str) -> None:
    """In drawing, too: with guidance the denoiser sees two texts for each picture."""
    backbone = backbone_of(family)
    layers = len(backbone.cross_attention)
    plain = vectors_of(backbone, "jumping dog")
    drawn = [
        pixels(generate(backbone, PROMPTS, {PLACEHOLDER: own}, seeds=[1, 2], steps=2, guidance=guidance))
        for guidance in (1.0, 5.0)
        for own in (
            plain,
            [one.expand(layers, -1, -1) for one in plain],
            [one.expand(TIMES, layers, -1, -1) for one in plain],
        )
    ]
    for first in (0, 3):
        assert np.abs(drawn[first] - drawn[first + 1]).max() <= 1
        assert np.abs(drawn[first] - drawn[first + 2]).max() <= 1
    moved = pixels(generate(backbone, PROMPTS, {PLACEHOLDER: by_layer(backbone, layers)}, seeds=[1, 2], steps=2))
    assert np.abs(drawn[3] - moved).max() > 1


@pytest.mark.parametrize("family", UNETS)
def test_vectors_of_every_layer_learn_also_when_the_denoiser_is_recomputed(family: str) -> None:
    backbone = backbone_of(family)
    gradients = []
    for recompute in (False, True):
        leaves = [own.clone().requires_grad_() for own in by_layer(backbone, len(backbone.cross_attention))]
        with backbone.saving(Savings(recompute=recompute)):
            predicted(backbone, leaves, times(backbone, 0.3, 0.8)).square().mean().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for kept, again in zip(*gradients, strict=True):
        assert bool(kept.flatten(1).abs().amax(dim=1).gt(0).all())
        torch.testing.assert_close(kept, again)


@pytest.mark.slow
def test_an_action_for_layers_and_one_for_all_stand_in_one_prompt() -> None:
    backbone = backbone_of("sd")
    vectors = {
        "<leap>": by_layer(backbone, TIMES, len(backbone.cross_attention)),
        "<wave>": by_layer(backbone, len(backbone.cross_attention)),
        "<kick>": vectors_of(backbone, "jumping"),
    }
    cond = backbone.encode_text(["a cat <kick> a dog <wave> the moon <leap>"], vectors)
    assert cond.hidden.shape[1] == TIMES * len(backbone.cross_attention) * 24


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in (*UNETS, "sd1-as-published")])
def test_families_of_joint_attention_have_no_such_layers(family: str) -> None:
    backbone = backbone_of(family)
    vectors = [own.expand(4, -1, -1) for own in vectors_of(backbone, "dog")]
    with pytest.raises(DataError, match=f"'{family}@0' has none: its text and picture attend to one another"):
        backbone.encode_text(PROMPTS, {PLACEHOLDER: vectors})


def test_another_number_of_layers_is_refused() -> None:
    backbone = backbone_of("sd")
    for leading in ((3,), (4, 4), (0,)):
        vectors = [own.expand(*leading, -1, -1) for own in vectors_of(backbone, "dog")]
        with pytest.raises(DataError, match="differ between cross-attention layers, and model 'sd@0' has 4 of them"):
            backbone.encode_text(PROMPTS, {PLACEHOLDER: vectors})


@pytest.mark.parametrize("texts", [1, 2, 3])
def test_texts_of_other_lengths_are_left_alone(texts: int) -> None:
    """As others make them for long prompts."""
    backbone, stock = backbone_of("sd"), stock_of("sd")
    text = torch.randn(2, texts * 24, 32, generator=torch.Generator().manual_seed(0))
    x_t, t = noisy(backbone), times(backbone, 0.3, 0.8)
    with torch.no_grad():
        ours, theirs = (unet(x_t, t, encoder_hidden_states=text).sample for unet in (backbone.denoiser, stock.unet))
    assert torch.equal(ours, theirs)


def test_backbones_may_share_a_denoiser() -> None:
    pipeline = tiny_sd()
    StableDiffusion(pipeline, "first@0")
    second = StableDiffusion(pipeline, "second@0")
    weights = lora_of(second)
    with lora.attached(second, [TokenLora(weights)]):
        assert predicted(second, vectors_of(second, "dog"), times(second, 0.3, 0.8)).isfinite().all()


def lora_of(backbone: Backbone, rank: int = 2, seed: int = 0, *, text_only: bool = True) -> dict[str, Tensor]:
    """A LoRA that changes something."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        key: torch.randn(weight.shape, generator=generator) if key.endswith(UP) else weight
        for key, weight in lora.fresh(backbone, rank, seed).items()
    }
    ends = tuple(end + half for end in ("attn2.to_k", "attn2.to_v") for half in (DOWN, UP))
    return {key: weight for key, weight in weights.items() if not text_only or key.endswith(ends)}


@contextmanager
def heard(backbone: Backbone, into: dict[str, Tensor]) -> Iterator[None]:
    """While open, keys and values of the cross-attention are kept by name."""

    def keep(name: str):
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            into[name] = output.detach()

        return hook

    handles = [
        backbone.denoiser.get_submodule(f"{name}.{end}").register_forward_hook(keep(f"{name}.{end}"))
        for name in backbone.cross_attention
        for end in ("to_k", "to_v")
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", UNETS)
def test_a_token_lora_changes_what_is_read_at_its_own_tokens_alone(family: str) -> None:
    backbone = backbone_of(family)
    prompts = ["a <kick> robot <wave> in the park", "a cat <wave>"]
    vectors = {"<wave>": vectors_of(backbone, "jumping dog"), "<kick>": vectors_of(backbone, "red")}
    everywhere, own = lora_of(backbone, 3, 1), lora_of(backbone, 2, 2)
    places = torch.zeros(2, 24, dtype=torch.bool)
    places[0, [4, 5]] = places[1, [3, 4]] = True  # after begin, "a", "<kick>" and "robot"; after begin, "a" and "cat"
    read: list[dict[str, Tensor]] = []
    for loras in ([], [everywhere], [own], [everywhere, TokenLora(own, "<wave>")]):
        read.append({})
        with lora.attached(backbone, loras), heard(backbone, read[-1]):
            cond = backbone.encode_text(prompts, vectors)
            backbone.predict(noisy(backbone), times(backbone, 0.3, 0.8), cond)
    for name, base in read[0].items():
        if name != next(iter(read[0])):  # others read the same text, but from pictures that differ by then
            continue
        expected = read[1][name] + (read[2][name] - base) * places[..., None]
        torch.testing.assert_close(read[3][name], expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(read[3][name][places], read[1][name][places], atol=1e-2)
    assert backbone.marked == ()


@pytest.mark.slow
@pytest.mark.parametrize("family", UNETS)
def test_prompts_without_its_word_are_drawn_as_without_a_token_lora(family: str) -> None:
    backbone = backbone_of(family)
    options = {"seeds": [1, 2], "steps": 2}
    own = TokenLora(lora_of(backbone), "<act>")
    plain = ["a robot in the park", "a cat"]
    assert np.array_equal(
        pixels(generate(backbone, plain, loras=[own], **options)), pixels(generate(backbone, plain, **options))
    )
    vectors = {PLACEHOLDER: vectors_of(backbone, "jumping dog")}
    drawn, without, everywhere = (
        pixels(generate(backbone, PROMPTS, vectors, loras=loras, **options)) for loras in ([own], [], [dict(own)])
    )
    assert (drawn != without).any() and (drawn != everywhere).any()


@pytest.mark.slow
def test_a_token_lora_goes_with_vectors_of_every_layer() -> None:
    backbone = backbone_of("sd")
    vectors = vectors_of(backbone, "jumping dog")
    own = TokenLora(lora_of(backbone))
    drawn = [
        pixels(generate(backbone, PROMPTS, {PLACEHOLDER: given}, loras=[own], seeds=[1, 2], steps=2))
        for given in (vectors, [one.expand(TIMES, len(backbone.cross_attention), -1, -1) for one in vectors])
    ]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("family", UNETS)
def test_a_token_lora_learns_the_same_when_the_denoiser_is_recomputed(family: str) -> None:
    backbone = backbone_of(family)
    gradients = []
    for recompute in (False, True):
        lora.attach(backbone, TokenLora(lora_of(backbone, text_only=False)))
        try:
            weights = lora.parameters(backbone)
            for weight in weights.values():
                weight.requires_grad_()
            vectors = [own.requires_grad_() for own in by_layer(backbone)]
            with backbone.saving(Savings(recompute=recompute)):
                loss = sum(
                    predicted(backbone, vectors, times(backbone, *t)).square().mean() for t in ((0.1, 0.2), (0.9, 0.5))
                )
                loss.backward()
            gradients.append({name: weight.grad for name, weight in weights.items()})
        finally:
            lora.detach(backbone)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
        assert bool(gradient.any())


def test_text_that_was_encoded_before_is_refused() -> None:
    backbone = backbone_of("sd")
    cond = backbone.encode_text(PROMPTS, {PLACEHOLDER: vectors_of(backbone, "dog")})
    with (
        lora.attached(backbone, [TokenLora(lora_of(backbone))]),
        pytest.raises(TwinactError, match="text was encoded before a LoRA was attached that acts at its own words"),
    ):
        backbone.predict(noisy(backbone), times(backbone, 0.3, 0.8), cond)


def test_a_token_lora_stays_one_at_another_strength_and_for_another_word() -> None:
    weights = {f"unet.x{DOWN}": torch.ones(1, 2), f"unet.x{UP}": torch.ones(2, 1)}
    half = lora.scaled(at("<leap>", TokenLora(weights)), 0.5)
    assert isinstance(half, TokenLora) and half.placeholder == "<leap>"
    assert float(half[f"unet.x{UP}"][0, 0]) == 0.5
    assert not isinstance(lora.scaled(at("<leap>", weights), 0.5), TokenLora)
