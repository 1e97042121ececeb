"""Makes the prompts of the benchmark: every custom action, with actors that its exemplars do not show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image

from twinact import PLACEHOLDER
from twinact.bench.metrics import SOMEONE, Asked
from twinact.nano.data import drawn_part
from twinact.nano.recipe import RECIPE
from twinact.world.captions import with_article
from twinact.world.draw import draw
from twinact.world.meanings import meanings
from twinact.world.places import PLACES
from twinact.world.pose import DOF_NAMES, DOFS, PartialPose, Pose, differences
from twinact.world.scene import Scene
from twinact.world.splits import CustomAction, Shared

_KEPT = 200  # of the ways to say an action, while another phrase is looked for


@dataclass(frozen=True)
class Ask:
    """One picture to draw.

    Attributes:
        prompt: With the placeholder where the action goes.
        seed: Seed of the picture, the same for every method.
        asked: What it should show.
    """

    prompt: str
    seed: int
    asked: Asked


def asks(
    action: CustomAction, actors: Sequence[str], places: Sequence[str], count: int = 10, shared: Shared | None = None
) -> list[Ask]:
    """Prompts with `count` different actors that the exemplars do not show, each in some place.

    Where the exemplars share something, every second prompt leaves the place unsaid, and the others name another one.

    Args:
        action: The custom action.
        actors, places: Keys of `ACTORS` and `PLACES` that the model knows.
        count: Number of actors; at most those that are left.
        shared: What the exemplars share and captions leave unsaid.
    """
    rng = np.random.default_rng(list(action.name.encode()))
    others = [actor for actor in actors if actor not in action.actors]
    chosen = [others[i] for i in rng.permutation(len(others))[:count]]
    result = []
    elsewhere = [place for place in places if shared is None or place != shared.place]
    for number, actor in enumerate(chosen):
        place = None if shared is not None and number % 2 else elsewhere[int(rng.integers(len(elsewhere)))]
        prompt = f"{with_article(actor)} {PLACEHOLDER}" + (f" {PLACES[place].text}" if place else "")
        asked = Asked(action.pose, actor, place, action.actors, shared)
        result.append(Ask(prompt, int(rng.integers(2**31)), asked))
    return result


def true_drawing(asked: Asked, seed: int, size: int) -> Image.Image:
    """What a picture should look like, drawn by the world.

    Args:
        asked: Action, actor and place (some one, if none is asked for); joints that the action does not name are at
            ease.
        seed: Seed of the details of the place.
        size: Side in pixels.
    """
    pose = Pose().with_values({name: target.value for name, target in asked.action.targets.items()})
    others = [place for place in RECIPE.places if asked.shared is None or place != asked.shared.place]
    place, actor = asked.place or others[seed % len(others)], asked.actor
    if actor == SOMEONE:
        strangers = [one for one in RECIPE.actors if one not in asked.leaked_actors]
        actor = strangers[seed % len(strangers)]
    return Image.fromarray(draw(Scene(actor, pose, place, detail_seed=seed), size))


def one_joint_wrong(asked: Asked, seed: int) -> Asked:
    """The same, but for one angle of an arm or a leg that misses its value by two tolerances.

    Args:
        asked: What is right.
        seed: Chooses the joint.
    """
    targets = dict(asked.action.targets)
    ways = [
        (name, value)
        for name, target in targets.items()
        if name.endswith(("shoulder", "elbow", "hip", "knee"))
        for value in (target.value - 2 * target.tolerance, target.value + 2 * target.tolerance)
        if DOFS[name].low <= value <= DOFS[name].high
    ]
    name, value = ways[seed % len(ways)]
    targets[name] = replace(targets[name], value=value)
    return replace(asked, action=PartialPose(targets))


def best_text(action: CustomAction, pairs: bool = False) -> str:
    """The words nano draws that come nearest to a custom action, chosen with knowledge of its true joint angles.

    This is the most that text can do, better than a person who only sees the exemplars would choose.

    Args:
        action: The custom action.
        pairs: Also consider two phrases that do not contradict, joined by "and".
    """
    return _best_text(action, 2 if pairs else 1)


def limb_by_limb(action: CustomAction) -> str:
    """As `best_text`, of up to four phrases that name other joints: as many as nano reads at once."""
    return _best_text(action, 4)


def _best_text(action: CustomAction, most: int) -> str:
    phrases, poses = _phrase_poses()
    names = list(action.pose.targets)
    columns = [DOF_NAMES.index(name) for name in names]
    values = np.array([action.pose.targets[name].value for name in names])
    tolerance = np.array([action.pose.targets[name].tolerance for name in names])
    cost = np.minimum(differences(poses[:, columns], values, names) / tolerance, 3.0)
    named = _named()
    single = cost.sum(1)
    best, *ways = (
        (single[i], [int(i)], named[i], cost[i]) for i in (single.argmin(), *np.argsort(single)[:_KEPT])
    )  # fmt: skip
    for _ in range(most - 1):
        longer = []
        for _, chosen, joints, costs in ways:
            # Another phrase, which names other joints, replaces what those before leave at ease.
            compatible = ~(named & joints).any(1)
            every = np.where(joints[columns], costs, np.where(named[:, columns], cost, cost[0]))  # row 0 is at ease
            sums = np.where(compatible, every.sum(1), np.inf)
            i = int(sums.argmin())
            longer.append((sums[i], [*chosen, i], joints | named[i], every[i]))
        ways = sorted(longer, key=lambda way: way[0])
        best = min(best, ways[0], key=lambda way: way[0])
    return " and ".join(phrases[i] for i in best[1])


@cache
def _phrase_poses() -> tuple[list[str], np.ndarray]:
    rest, table = Pose(), meanings()
    rows = [("standing still", rest)] + [
        (phrase, rest.with_values({n: t.value for n, t in table[phrase][0].targets.items()}))
        for phrase in drawn_part(RECIPE).phrases
        if len(table[phrase]) == 1  # words that leave a choice cannot ask for this pose alone
    ]
    return [phrase for phrase, _ in rows], np.stack([pose.as_array() for _, pose in rows])


@cache
def _named() -> np.ndarray:
    table = meanings()
    rows: list[PartialPose] = [table[p][0] if p in table else PartialPose({}) for p in _phrase_poses()[0]]
    return np.array([[name in row.targets for name in DOFS] for row in rows])
