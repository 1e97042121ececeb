"""How well a head on nano's features reads poses, and what one read takes, beside the reader that taught it.

python benchmarks/feature_head.py --json benchmarks/results/feature_head.json

The head is taught by the drawings of nano's phrases, two of each alone and one with another, after the first step. A
tenth of the phrases is held out. Some drawings of these are finished as nano draws, with other actors, and nano's own
reader says which pose they show.

What is timed is one read of four prompts, forward and backward to the token vectors. ViTPose has the sizes of
`usyd-community/vitpose-plus-base` and untrained weights: that changes what it sees and not how long it takes.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.backbones.shipped import model_dir
from twinact.console import say
from twinact.intent import EarlyPose, HeadPose, IntendedPose, PoseTarget
from twinact.intent.eyes import PictureEyes, open_eyes
from twinact.intent.feature_head import FeatureHead
from twinact.intent.head_training import Lessons, held_out, read_features, train_head
from twinact.intent.measure import correlation
from twinact.intent.pose_table import plan, pose_table
from twinact.intent.prompts import other_prompts
from twinact.jobs.models import default_space, open_model
from twinact.phrases.wording import said
from twinact.readers import load_action_encoder
from twinact.readers.body import SEGMENTS
from twinact.readers.own import LatentPoseReader
from twinact.readers.vitpose import ViTPoseReader
from twinact.sample import generate
from twinact.space import ActionSpace
from twinact.space.pose_table import OWN

DRAWINGS, FINISHED, PROMPTS, READS, GRADIENTS = 2, 32, 4, 3, 8


def compared(found: Tensor, right: Tensor) -> dict[str, float]:
    """Of directions, (n, rows, 2): the correlation over all rows, and the median angle between limbs in degrees."""
    limbs = slice(len(SEGMENTS))
    cosines = (found[:, limbs] * right[:, limbs]).sum(dim=2).clamp(-1, 1)
    angle = float(cosines.arccos().rad2deg().median())
    return {"correlation": round(correlation(found, right), 3), "median angle": round(angle, 1)}


@torch.no_grad()
def finished(backbone: Backbone, intents: Mapping[str, IntendedPose], phrases: Sequence[str]) -> dict[str, Any]:
    """How what is meant at the first step lies to what nano's own reader sees in the pictures, one of each phrase."""
    prompts = other_prompts(torch.Generator().manual_seed(0), len(phrases))
    texts = [said(prompt, phrase) for prompt, phrase in zip(prompts, phrases, strict=True)]
    # The noise that pictures with these seeds begin with.
    noise = [torch.randn(backbone.latent_shape, generator=torch.Generator().manual_seed(i)) for i in range(len(texts))]
    cond, limbs = backbone.encode_text(texts), slice(len(SEGMENTS))
    meant = {name: intent.read(backbone, cond, torch.stack(noise))[:, limbs] for name, intent in intents.items()}
    encoder = load_action_encoder(model_dir())
    assert encoder is not None
    pictures = generate(backbone, texts, seeds=range(len(texts)), steps=backbone.steps, guidance=backbone.guidance)
    shown = LatentPoseReader(encoder, backbone).read(pictures).directions
    mean = shown.mean(dim=0, keepdim=True).expand_as(shown)
    found = {f"{name} and finished": compared(read, shown) for name, read in meant.items()}
    return {"finished drawings": len(texts), **found, "mean and finished": compared(mean, shown)}


def gradient(backbone: Backbone, space: ActionSpace, intent: IntendedPose, number: int) -> Tensor:
    """Where learning would go from one phrase towards the pose of the next, in coefficients; one dimension."""
    assert space.poses is not None
    wanted = space.poses.directions[(number + 1) % len(space.phrases)]
    leading = space.phrase_coefficients[[number]].clone().requires_grad_(True)
    generator = torch.Generator().manual_seed(number)
    prompts = other_prompts(generator, PROMPTS)
    noise = torch.randn((PROMPTS, *backbone.latent_shape), generator=generator)
    cond = backbone.encode_text(prompts, {PLACEHOLDER: space.vectors(leading, space.phrase_mask[[number]])})
    target = PoseTarget(wanted, torch.ones(len(wanted)), intent)
    target.distance(target.chords(backbone, cond, noise)).mean().backward()
    assert leading.grad is not None
    return leading.grad.flatten()


def seconds(read: Callable[[], Any]) -> float:
    """Of one call, the median of a few after one that warms up."""
    taken = []
    for _ in range(READS + 1):
        began = time.perf_counter()
        read()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def vitpose_base() -> PictureEyes:
    """ViTPose of the usual size, untrained."""
    body = VitPoseBackboneConfig(num_experts=6, part_features=192, out_indices=[12])
    return PictureEyes(ViTPoseReader(VitPoseForPoseEstimation(VitPoseConfig(backbone_config=body, num_labels=17))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="results file")
    given = parser.parse_args()
    backbone = open_model("nano", device="cpu")
    space, eyes = default_space(backbone), open_eyes(OWN, backbone)
    assert eyes is not None
    drawn = plan(space.phrases, DRAWINGS, backbone.latent_shape)
    lessons = Lessons(eyes, 1)
    say("drawing the phrases")
    pose_table(backbone, lessons, space.phrases, drawings=DRAWINGS)
    say("teaching the head")
    began = time.perf_counter()
    taught = train_head(backbone, lessons, drawn.said)
    assert taught is not None
    teaching = time.perf_counter() - began
    held = held_out(drawn.said)
    test = [i for i, phrases in enumerate(drawn.said) if phrases and set(phrases) <= held]
    read = read_features(FeatureHead.of(taught.head), [lessons.features[i] for i in test], backbone.device)
    early = torch.stack([lessons.directions[i] for i in test])
    intents = {"head": HeadPose(taught.head, 1), "own reader": EarlyPose(eyes, 1)}
    numbers = sorted(held)
    say("finishing drawings of phrases that were held out")
    shown = finished(backbone, intents, [space.phrases[i] for i in numbers[:FINISHED]])
    say("reading one by one")
    cosines = [
        float(torch.cosine_similarity(*(gradient(backbone, space, intent, i) for intent in intents.values()), dim=0))
        for i in numbers[:GRADIENTS]
    ]
    timed = {**intents, "decoding and ViTPose": EarlyPose(vitpose_base(), 1)}
    taken = {name: seconds(lambda one=one: gradient(backbone, space, one, numbers[0])) for name, one in timed.items()}
    results = {
        "model": backbone.model_id,
        "phrases": len(space.phrases),
        "block": taught.head.block,
        "drawings taught": taught.drawings,
        "drawings held out": taught.held_out,
        "head and reader, same estimate": compared(read, early),
        **shown,
        "cosine of gradients, head and reader": {"median": round(median(cosines), 2), "least": round(min(cosines), 2)},
        "seconds teaching": round(teaching),
        "time of a read, head is 1": {name: round(value / taken["head"], 2) for name, value in taken.items()},
        "megabytes": round(sum(4 * tensor.numel() for tensor in taught.head.tensors.values()) / 1e6, 2),
    }
    given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    say(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
