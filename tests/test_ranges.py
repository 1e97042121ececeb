"""Numbers are refused where they come in, with the range that is allowed; a black picture is never a file."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.core import TyperGroup

from commands import invoke
from families import CORE, backbone_of, vectors_of
from small import small_space
from tiny import tiny_sd
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.sd import StableDiffusion
from twinact.cli import app
from twinact.configs import METHODS, LearnConfig, RunConfig
from twinact.errors import CheckpointError, ConfigError, DataError
from twinact.export import import_action
from twinact.lora import fresh, scaled
from twinact.sample import generate
from twinact.space import ActionSpace

BAD = ("nan", "inf", "-inf", "1e30")


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    "command",
    [
        ("adjust", "a.action.safetensors", "--component", "0:0", "--out", "b", "--amount"),
        ("adjust", "a.action.safetensors", "--toward", "running", "--out", "b", "--amount"),
        ("combine", "a.action.safetensors", "b.action.safetensors", "--out", "b", "--weights"),
        ("generate", "a.action.safetensors", "--prompt", "a <act>", "--lora-weight"),
        ("generate", "a.action.safetensors", "--prompt", "a <act>", "--actor-weight"),
        ("generate", "a.action.safetensors", "--prompt", "a <act>", "--guidance"),
        ("nano", "evaluate", "--guidance"),
    ],
    ids=lambda command: " ".join((command[0], command[-1])),
)
def test_commands_refuse_numbers_out_of_range(
    command: tuple[str, ...], value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    *rest, option = command
    given = f"{option}=1,{value}" if option == "--weights" else f"{option}={value}"
    result = invoke(*rest, given)
    assert result.exit_code == 2 and option in result.stderr
    assert not list(tmp_path.iterdir())


def test_counts_have_a_bound() -> None:
    result = invoke("generate", "a.action.safetensors", "--prompt", "a <act>", "--count", "1000000000")
    assert result.exit_code == 2 and "10000" in result.stderr


@pytest.mark.parametrize("value", [float(value) for value in BAD])
def test_the_library_refuses_them_too(value: float, backbone: Backbone, space: ActionSpace) -> None:
    action = Action.from_coefficients("leap", space, space.phrase_coefficients[1])
    for use in (
        lambda: action.adjusted(space, (0, 0), value),
        lambda: action.toward(space, "jumping", value),
        lambda: action.combined(space, [action], [1.0, value]),
        lambda: scaled(fresh(backbone, 2, 0), value),
        lambda: generate(backbone, ["a cat"], seeds=[0], guidance=value),
    ):
        with pytest.raises(ConfigError, match=r"must be a number in [\[(]"):
            use()


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("size", [3e38, 1e6])
def test_vectors_out_of_the_models_reach_are_refused(name: str, size: float) -> None:
    backbone = backbone_of(name)
    vectors = vectors_of(backbone, "cat")
    vectors[-1] = torch.full_like(vectors[-1], size)
    with pytest.raises(DataError, match=re.escape(f"vectors of '<act>' hold {size:.3g}")):
        generate(backbone, ["a <act>"], {"<act>": vectors}, seeds=[0], steps=1)


def test_an_embedding_out_of_reach_is_not_imported(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "word.safetensors"
    save_file({"emb_params": torch.full((1, 32), 3e38)}, path)
    with pytest.raises(CheckpointError, match=r"word\.safetensors.* at most 100 times that"):
        import_action(path, "StableDiffusionPipeline", name="word", backbone=backbone)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), -10.0])
def test_a_black_picture_is_an_error(value: float, tmp_path: Path) -> None:
    pipeline = tiny_sd()
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias.fill_(value)
    backbone = StableDiffusion(pipeline, "tiny@0")
    with pytest.raises(DataError, match="'a cat' with seed 5 came out black"):
        generate(backbone, ["a cat"], seeds=[5], steps=1)


def test_the_strengths_that_people_use_are_drawn(backbone: Backbone) -> None:
    lora, space = fresh(backbone, 2, 0), small_space(backbone)
    action = Action.from_coefficients("leap", space, space.phrase_coefficients[1]).adjusted(space, (0, 0), 3.0)
    for strength in (-2.0, 0.0, 10.0):
        generate(backbone, ["a <act>"], {"<act>": action.vectors}, loras=[scaled(lora, strength)], seeds=[0], steps=1)


def test_every_count_that_a_command_takes_has_an_upper_bound() -> None:
    """A typing error must not fill memory or a week; settings check their own bounds."""

    def numbers(group: Any) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                yield from numbers(command)
            else:
                kinds = ((one, str(one.type_descriptor.annotation)) for one in command.params)
                yield from ((f"{name} {one.name}", one) for one, kind in kinds if re.search("int|float", kind))

    settings = {each.name for each in fields(LearnConfig) + fields(RunConfig) if each.metadata}
    settings |= {each.name for method in METHODS.values() for each in fields(method)}
    checked = {"adjust amount", "evaluate guidance"} | {f"generate {whose}_weight" for whose in ("lora", "actor")}
    found = dict(numbers(typer.main.get_command(app)))
    assert {"generate count", "learn steps", "evaluate prompts"} <= found.keys()
    for name, option in found.items():
        of_settings = name.startswith("learn ") and option.name in settings
        assert of_settings or name in checked or (option.min is not None and option.max is not None), name
