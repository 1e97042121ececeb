"""Weights of words in prompts: what is read as one, and that nothing else changes a bit."""

import pytest
import torch

from families import CORE, backbone_of, vectors_of
from twinact.backbones.prompt_weights import weighed_parts
from twinact.errors import DataError
from twinact.jobs.known import tell_unread_weights
from twinact.sample import generate

WEIGHING = [name for name in CORE if backbone_of(name).weighs_prompts]


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red cat", [("a red cat", 1.0)]),
        ("", [("", 1.0)]),
        ("(a [red] (cat))", [("(a [red] (cat))", 1.0)]),
        ("a (red:1.5) cat", [("a ", 1.0), ("red", 1.5), (" cat", 1.0)]),
        ("(a <act> here: .5)", [("a <act> here", 0.5)]),
        ("((red:2) cat:0.25) dog", [("red", 0.5), (" cat", 0.25), (" dog", 1.0)]),
        ("(a (red) cat:1.2)", [("a (red) cat", 1.2)]),
        ("in (4:3) and ): (red", [("in (4:3) and ): (red", 1.0)]),
        ("a (red:high) (cat:)", [("a (red:high) (cat:)", 1.0)]),
    ],
)
def test_only_words_with_a_number_are_weighed(prompt: str, parts: list[tuple[str, float]]) -> None:
    assert weighed_parts(prompt) == parts


@pytest.mark.parametrize("weight", ["11", "-1", "30"])
def test_weights_out_of_range_are_refused(weight: str) -> None:
    with pytest.raises(DataError, match=rf"gives 'red' the weight {weight}: use a number in \[0, 10\]"):
        backbone_of("sd").encode_text([f"a (red:{weight}) cat"])


@pytest.mark.parametrize("name", WEIGHING)
def test_weights_move_their_own_positions_alone(name: str) -> None:
    """CLIP looks backwards only; the word's own positions are told apart by a weight of nothing at all."""
    backbone = backbone_of(name)
    plain, one, more, none = (
        backbone.encode_text([prompt]) for prompt in ("a red cat", "a (red:1) cat", "a (red:1.5) cat", "a (red:0) cat")
    )
    assert torch.equal(one.hidden, plain.hidden)
    moved = (more.hidden != plain.hidden).any(dim=2)
    assert torch.equal(moved, (none.hidden != plain.hidden).any(dim=2))
    assert int(moved.sum()) == (2 if name == "sd3" else 1)  # SD3 puts CLIP before T5
    towards = (plain.hidden - none.hidden)[moved]
    torch.testing.assert_close((more.hidden - plain.hidden)[moved], 0.5 * towards)
    assert plain.pooled is None or torch.equal(plain.pooled, more.pooled)


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHING)
def test_placeholders_may_stand_inside_and_outside_of_weights(name: str) -> None:
    backbone = backbone_of(name)
    vectors = {"<act>": [value.clone().requires_grad_() for value in vectors_of(backbone, "jumping red")]}
    spelled = {"<act>": vectors_of(backbone, "jumping red")}
    for prompt in ("a cat (<act>:1.5) in the park", "(a cat:1.5) <act> in the park", "(a cat <act> in:0.5) the park"):
        told = backbone.encode_text([prompt, "a dog"], vectors).hidden
        expected = backbone.encode_text([prompt.replace("<act>", "jumping red"), "a dog"]).hidden
        torch.testing.assert_close(told, expected)
        assert not torch.equal(told[0], backbone.encode_text(["a cat <act> in the park"], spelled).hidden[0])
    told.square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in vectors["<act>"][-1:])


def test_other_prompts_of_a_batch_keep_their_bits() -> None:
    backbone = backbone_of("sd")
    alone, beside = backbone.encode_text(["a dog"] * 2), backbone.encode_text(["a dog", "a (cat:2)"])
    assert torch.equal(alone.hidden[0], beside.hidden[0])


def test_negative_prompts_are_weighed_too() -> None:
    backbone, drawn = backbone_of("sdxl"), []
    for negative in ("a park", "a (park:1)", "a (park:2)"):
        (picture,) = generate(backbone, ["a cat"], seeds=[1], steps=2, negative_prompt=negative)
        drawn.append(picture.tobytes())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("name", ["klein", "z-image"])
def test_families_without_weights_read_them_as_they_are_written_and_say_so(name: str) -> None:
    backbone, told = backbone_of(name), []
    (table,) = backbone.token_tables()
    assert not backbone.weighs_prompts
    hidden = backbone.encode_text(["a (red:1.5) cat"]).hidden
    spelled = backbone.encode_text(["a <act> cat"], {"<act>": [table.weight[table.ids("(red:1.5)")]]}).hidden
    torch.testing.assert_close(hidden, spelled)
    tell_unread_weights(backbone, ["a cat", "a (red:1.5) cat"], told.append)
    assert len(told) == 1 and "'a (red:1.5) cat'" in told[0]
    tell_unread_weights(backbone_of("sd"), ["a (red:1.5) cat"], told.append)
    assert len(told) == 1
