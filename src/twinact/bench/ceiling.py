"""The most that a model can be taught of an action: free vectors fitted on many drawings of it, with every actor.

No method can be better than this by more than chance: it sees what no user has, and nothing holds its vectors back.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import bf16_if_native
from twinact.bench.metrics import Scores, score
from twinact.bench.tasks import asks, best_text
from twinact.nano.recipe import RECIPE
from twinact.sample import generate
from twinact.statistics import Share
from twinact.world.captions import with_article
from twinact.world.draw import draw
from twinact.world.judges.judges import Judges
from twinact.world.places import PLACES
from twinact.world.pose import Pose
from twinact.world.sampling import sample_camera
from twinact.world.scene import Scene
from twinact.world.splits import DEV_ACTIONS, CustomAction

DRAWINGS = 128
_RATE, _BATCH = 0.03, 16


def fitted_vectors(
    backbone: Backbone, action: CustomAction, steps: int, progress: Callable[[int, int], None] | None = None
) -> Float[Tensor, "n width"]:
    """Vectors that begin as the best two phrases, and are fitted by the denoising loss.

    Args:
        backbone: The embedded model.
        action: What is drawn.
        steps: Of 16 drawings each.
        progress: Called with (steps done, steps in all).
    """
    latents, prompts = _drawings(backbone, action)
    table = backbone.token_tables()[0]
    vectors = torch.nn.Parameter(table.embed(best_text(action, pairs=True)).detach().clone())
    optimizer = torch.optim.Adam([vectors], lr=_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(DRAWINGS, (_BATCH,), generator=generator)
        noise = torch.randn(_BATCH, *latents.shape[1:], generator=generator)
        t = backbone.noising.sample_t(_BATCH, generator, RECIPE.noise_bias)
        noised = backbone.noising.add(latents[chosen], noise, t)
        with bf16_if_native(backbone.device):
            cond = backbone.encode_text([prompts[i] for i in chosen], {PLACEHOLDER: [vectors]})
            error = backbone.predict(noised.x_t, noised.t, cond).float() - noised.target
        optimizer.param_groups[0]["lr"] = _RATE * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps)
    return vectors.detach()


def judged_vectors(
    backbone: Backbone, judges: Judges, action: CustomAction, vectors: Float[Tensor, "n width"], count: int = 10
) -> Scores:
    """How often `count` other actors do the action in drawings with these vectors."""
    wanted = asks(action, RECIPE.actors, RECIPE.places, count)
    pictures = generate(
        backbone, [ask.prompt for ask in wanted], {PLACEHOLDER: [vectors]}, seeds=[ask.seed for ask in wanted],
        guidance=RECIPE.guidance,
    )  # fmt: skip
    return score(judges.judge(pictures), [ask.asked for ask in wanted])


def free_ceilings(
    backbone: Backbone, judges: Judges, steps: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """`judged_vectors` of `fitted_vectors` for every dev action that no phrase describes, and over all, as JSON."""
    actions = [action for action in DEV_ACTIONS.values() if action.kind == "free"]
    found: dict[str, Scores] = {}
    for number, action in enumerate(actions):
        before = number * steps

        def after(done: int, _count: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, len(actions) * steps)

        vectors = fitted_vectors(backbone, action, steps, after)
        found[action.name] = judged_vectors(backbone, judges, action, vectors)
    every = list(found.values())
    whole = Share(sum(one.joint.successes for one in every), sum(one.joint.count for one in every))
    rows = {name: {"joint": one.joint.as_json(), "angles": round(one.near, 3)} for name, one in found.items()}
    near = sum(one.near for one in every) / len(every)
    return rows | {"all": {"joint": whole.as_json(), "angles": round(near, 3)}}


@torch.no_grad()
def _drawings(backbone: Backbone, action: CustomAction) -> tuple[Float[Tensor, "n c h w"], list[str]]:
    rng = np.random.default_rng([5, *action.name.encode()])
    latents, prompts = [], []
    for index in range(DRAWINGS):
        actor, place = RECIPE.actors[index % len(RECIPE.actors)], RECIPE.places[index % len(RECIPE.places)]
        pose = action.pose.sample(Pose(), rng, spread=0.15)
        picture = draw(Scene(actor, pose, place, sample_camera(rng), index), RECIPE.image_size)
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        latents.append(backbone.encode_image(pixels))
        prompts.append(f"{with_article(actor)} {PLACEHOLDER} {PLACES[place].text}")
    return torch.cat(latents), prompts
