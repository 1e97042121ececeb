"""Looks at what a model means by every phrase of a space, for several actors, and keeps the poses as data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.intent.intended_pose import IntendedPose
from twinact.intent.prompts import other_prompts
from twinact.phrases.wording import said
from twinact.space.action_space import CONJUNCTION
from twinact.space.pose_table import OWN, PoseTable

DRAWINGS = 8
_SEED = 1
_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Plan:
    """What is drawn for a pose table, one row a drawing.

    Attributes:
        texts: Prompts.
        numbers: Which noise each begins with.
        said: Numbers of the phrases that each says: none, one or two.
        noise: Standard normal.
    """

    texts: list[str]
    numbers: list[int]
    said: list[tuple[int, ...]]
    noise: Float[Tensor, "drawings c h w"]


def plan(phrases: Sequence[str], drawings: int, latent_shape: tuple[int, int, int]) -> Plan:
    """The drawings of a pose table: first those of no phrase and of every phrase alone, then those of two at once.

    Args:
        phrases: Those of a space.
        drawings: How many of each phrase alone, and three for every four of them together with others.
        latent_shape: Of the model.
    """
    generator = torch.Generator().manual_seed(_SEED)
    count = len(phrases)
    prompts = other_prompts(generator, drawings)
    noise = torch.randn((drawings, *latent_shape), generator=generator)
    rows = [(said(prompts[number], text), number) for text in ("", *phrases) for number in range(drawings)]
    alone: list[tuple[int, ...]] = [(), *((i,) for i in range(count))]
    # Every phrase with so many others, each round in an order of its own.
    rounds = 3 * drawings // 4
    second = torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)] or [torch.arange(0)])
    pairs = [(a, b) for a, b in zip(list(range(count)) * rounds, second.tolist(), strict=True) if a != b]
    for i, (a, b) in enumerate(pairs):
        # As an action of two clauses stands in a prompt: right behind the actor.
        joined = f"{phrases[a]} {CONJUNCTION} {phrases[b]}"
        rows.append((prompts[i % drawings].replace(PLACEHOLDER, joined), i % drawings))
    told = [one for one in alone for _ in range(drawings)] + pairs
    return Plan([text for text, _ in rows], [number for _, number in rows], told, noise)


@torch.no_grad()
def pose_table(
    backbone: Backbone,
    intent: IntendedPose,
    phrases: Sequence[str],
    *,
    drawings: int = DRAWINGS,
    reader: str = OWN,
    progress: Callable[[int, int], None] | None = None,
) -> PoseTable:
    """The mean directions of every phrase over drawings that differ in actor, place and noise, alike for all phrases,
    and how strong each is beside others.

    Args:
        backbone: The model.
        intent: Reads what it means.
        phrases: Those of its space.
        drawings: How many of each phrase alone, and three for every four of them together with others.
        reader: The name of who reads what it means, as `twinact.intent.eyes.open_eyes` takes it.
        progress: Called with (drawings done, drawings in all).
    """
    drawn = plan(phrases, drawings, backbone.latent_shape)
    rows, noise = len(drawn.texts), drawn.noise.to(backbone.device, backbone.dtype)
    found = []
    for start in range(0, rows, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        cond = backbone.encode_text(drawn.texts[part])
        found.append(intent.read(backbone, cond, noise[drawn.numbers[part]]).float().cpu())
        if progress is not None:
            progress(min(start + _AT_ONCE, rows), rows)
    read: Float[Tensor, "m g 2"] = torch.cat(found)
    count = (1 + len(phrases)) * drawings
    means = read[:count].unflatten(0, (-1, drawings)).mean(dim=1)
    table = replace(PoseTable.of(means[1:], means[0], drawings), steps=intent.steps, reader=reader)
    if count == rows:
        return table
    first, second = torch.tensor(drawn.said[count:]).T
    return table.with_strengths(first, second, read[count:])
