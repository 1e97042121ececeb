"""Looks at what a model means by every phrase of a space, for several actors, and keeps the poses as data."""

from collections.abc import Callable, Sequence
from dataclasses import replace

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
    generator = torch.Generator().manual_seed(_SEED)
    count = len(phrases)
    alone = [(text, number) for text in ("", *phrases) for number in range(drawings)]
    prompts = other_prompts(generator, drawings)
    noise = torch.randn((drawings, *backbone.latent_shape), generator=generator)
    # Every phrase with so many others, each round in an order of its own.
    rounds = 3 * drawings // 4
    second = torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)] or [torch.arange(0)])
    first = torch.arange(count).repeat(rounds)
    first, second = first[first != second], second[first != second]
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    joined = [f"{phrases[a]} {CONJUNCTION} {phrases[b]}" for a, b in pairs]
    rows = [(said(prompts[number], text), number) for text, number in alone]
    # As an action of two clauses stands in a prompt: right behind the actor.
    rows += [(prompts[i % drawings].replace(PLACEHOLDER, text), i % drawings) for i, text in enumerate(joined)]
    found = []
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        cond = backbone.encode_text([text for text, _ in part])
        drawn = noise[[number for _, number in part]].to(backbone.device, backbone.dtype)
        found.append(intent.read(backbone, cond, drawn).float().cpu())
        if progress is not None:
            progress(start + len(part), len(rows))
    read: Float[Tensor, "m g 2"] = torch.cat(found)
    means = read[: len(alone)].unflatten(0, (-1, drawings)).mean(dim=1)
    table = replace(PoseTable.of(means[1:], means[0], drawings), steps=intent.steps, reader=reader)
    return table.with_strengths(first, second, read[len(alone) :]) if rounds else table
