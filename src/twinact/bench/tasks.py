"""What the benchmark asks: every custom action, with actors that its exemplars do not show."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from twinact import PLACEHOLDER
from twinact.bench.metrics import Asked
from twinact.nano.data import drawn_part
from twinact.nano.recipe import RECIPE
from twinact.world.captions import follows_directly, with_article
from twinact.world.draw import draw
from twinact.world.meanings import meanings
from twinact.world.places import PLACES
from twinact.world.pose import DOF_NAMES, DOFS, PartialPose, Pose
from twinact.world.scene import Scene
from twinact.world.splits import CustomAction


@dataclass(frozen=True)
class Ask:
    """One picture to draw.

    Attributes:
        prompt: With the placeholder where the action goes.
        seed: Of the picture, the same for every method.
        asked: What it should show.
    """

    prompt: str
    seed: int
    asked: Asked


def asks(action: CustomAction, actors: Sequence[str], places: Sequence[str], count: int = 10) -> list[Ask]:
    """Prompts with `count` different actors that the exemplars do not show, each in some place.

    Args:
        action: The custom action.
        actors, places: Keys of `ACTORS` and `PLACES` that the model knows.
        count: Number of actors; at most those that are left.
    """
    rng = np.random.default_rng(list(action.name.encode()))
    others = [actor for actor in actors if actor not in action.actors]
    chosen = [others[i] for i in rng.permutation(len(others))[:count]]
    result = []
    for actor in chosen:
        place = places[int(rng.integers(len(places)))]
        prompt = f"{with_article(actor)} {PLACEHOLDER} {PLACES[place].text}"
        result.append(Ask(prompt, int(rng.integers(2**31)), Asked(action.pose, actor, place, action.actors)))
    return result


def true_drawing(asked: Asked, seed: int, size: int) -> Image.Image:
    """What a picture should look like, drawn by the world.

    Args:
        asked: Action, actor and place; joints that the action does not name are at ease.
        seed: Of the details of the place.
        size: Side in pixels.
    """
    pose = Pose().with_values({name: target.value for name, target in asked.action.targets.items()})
    return Image.fromarray(draw(Scene(asked.actor, pose, asked.place, detail_seed=seed), size))


def best_text(action: CustomAction, pairs: bool = False) -> str:
    """The words nano draws that come nearest to a custom action, chosen with knowledge of its true joint angles.

    This is the most that text can do, better than a person who only sees the exemplars would choose.

    Args:
        action: The custom action.
        pairs: Also consider two phrases that do not contradict, joined by "and".
    """
    phrases, poses = _phrase_poses()
    names = list(action.pose.targets)
    columns = [DOF_NAMES.index(name) for name in names]
    values = np.array([action.pose.targets[name].value for name in names])
    tolerance = np.array([action.pose.targets[name].tolerance for name in names])
    error = np.abs(poses[:, columns] - values)
    if "root_rotation" in names:
        rotation = error[:, names.index("root_rotation")]
        error[:, names.index("root_rotation")] = np.minimum(rotation, 360 - rotation)
    cost = np.minimum(error / tolerance, 3.0)
    single = cost.sum(1)
    best = int(single.argmin())
    if not pairs:
        return phrases[best]
    named = _named()
    text, least = phrases[best], single[best]
    rest_cost = cost[0]  # row 0 is the figure at ease
    for first in np.argsort(single)[:200]:
        # A second phrase that names other joints replaces what the first leaves at ease.
        compatible = ~(named & named[first]).any(1)
        joined = np.where(named[first, columns], cost[first], np.where(named[:, columns], cost, rest_cost)).sum(1)
        joined[~compatible] = np.inf
        second = int(joined.argmin())
        if joined[second] < least:
            text, least = f"{phrases[first]} and {phrases[second]}", joined[second]
    return text


def said(prompt: str, words: str) -> str:
    """A prompt with words for the action, joined to the actor as captions do: "jumping", but "with arms crossed"."""
    return prompt.replace(PLACEHOLDER, words if follows_directly(words) else f"with {words}")


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
