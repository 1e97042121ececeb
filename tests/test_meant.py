"""What a model means by points of its space."""

import torch

from small import vitpose
from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.intent import EarlyPose, Meant
from twinact.intent.eyes import PictureEyes
from twinact.intent.prompts import other_prompts
from twinact.readers.vitpose import ViTPoseReader
from twinact.space import ActionSpace


def test_points_are_asked_about_in_the_same_prompts(backbone: Backbone, space: ActionSpace) -> None:
    intent = EarlyPose(PictureEyes(ViTPoseReader(vitpose())), 2)
    points = [(space.phrase_coefficients[rows], space.phrase_mask[rows]) for rows in ([0], [1, 2], [3])]
    done: list[int] = []
    found = Meant(backbone, space, intent, prompts=2, at_once=3)(points, done.append)
    assert found.shape[:2] == (3, 2) and done == [3, 6]
    assert not torch.allclose(found[0], found[1])
    generator = torch.Generator().manual_seed(0)
    prompts = other_prompts(generator, 2)
    noise = torch.randn((2, *backbone.latent_shape), generator=generator)
    cond = backbone.encode_text(prompts, {PLACEHOLDER: space.vectors(*points[1])})
    torch.testing.assert_close(found[1], intent.read(backbone, cond, noise).detach(), atol=1e-4, rtol=0)


def test_a_model_that_nobody_has_measured_is_not_asked(backbone: Backbone, space: ActionSpace) -> None:
    assert Meant.of(backbone, space) is None
