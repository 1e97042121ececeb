"""How far the judges can be trusted, on pictures whose truth is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from twinact.backbones.backbone import Backbone
from twinact.data.pictures import pixels_of
from twinact.nano.data import drawn_part
from twinact.nano.recipe import RECIPE
from twinact.sheets import contact_sheet
from twinact.statistics import share
from twinact.world.draw import draw, joints
from twinact.world.judges.judges import Judges, Verdict
from twinact.world.meanings import meanings, phrase_holds
from twinact.world.pose import DOF_NAMES, DOFS, Pose, distance
from twinact.world.sampling import Described, sample_described, sample_free_scene
from twinact.world.scene import Scene

# The joints whose angles a person sees at once; face and fingers are a few pixels.
LIMBS = tuple(name for name in DOF_NAMES if name.endswith(("shoulder", "elbow", "hip", "knee")))
AT_ONCE = 32  # pictures that are drawn and read together
Pictures = Sequence[np.ndarray | Image.Image]
MIRRORED, OFF = "pose mirrored", "one named value off by two tolerances"
OTHER_ACTOR, OTHER_PLACE = "another actor", "another place"


@dataclass(frozen=True)
class Case:
    """A drawn picture, its truth, and what the judges read from it."""

    scene: Scene
    phrases: tuple[str, ...]
    picture: np.ndarray | Image.Image
    verdict: Verdict

    @property
    def joint_error(self) -> float:
        """Mean distance of the joints of the judged pose from the true ones, in heights of the picture."""
        return float(np.linalg.norm(joints(self.seen) - joints(self.scene), axis=1).mean())

    @property
    def seen(self) -> Scene:
        """The scene with the judged pose."""
        return replace(self.scene, pose=self.verdict.pose)


def drawn_scenes(count: int, seed: int, *, free: bool = False) -> list[Described]:
    """Scenes that no training stream holds: of the caption grammar, or poses drawn freely with any actor and place."""
    rngs = [np.random.default_rng([seed, 992, index]) for index in range(count)]
    if free:
        return [Described(sample_free_scene(rng), "", ()) for rng in rngs]
    part = drawn_part(RECIPE)
    return [sample_described(rng, part) for rng in rngs]


def judged(
    judges: Judges,
    scenes: Sequence[Described],
    spoil: Callable[[Pictures], Pictures] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Case]:
    """Draw scenes and judge them.

    Args:
        judges: To be measured.
        scenes: See `drawn_scenes`.
        spoil: What happens to the pictures before they are judged, as a round trip through a VAE.
        progress: Called with the number of pictures judged, every few of them.
    """
    cases: list[Case] = []
    for start in range(0, len(scenes), AT_ONCE):
        chunk = scenes[start : start + AT_ONCE]
        drawn: Pictures = [draw(item.scene, RECIPE.image_size) for item in chunk]
        pictures = drawn if spoil is None else spoil(drawn)
        rows = zip(chunk, pictures, judges.judge(pictures), strict=True)
        cases += [Case(item.scene, item.phrases, picture, verdict) for item, picture, verdict in rows]
        if progress is not None:
            progress(len(cases))
    return cases


def round_trip(backbone: Backbone) -> Callable[[Pictures], Pictures]:
    """Encodes and decodes pictures with the backbone's VAE."""

    @torch.no_grad()
    def spoil(pictures: Pictures) -> Pictures:
        moved = [chunk.to(backbone.device) for chunk in pixels_of(pictures).split(32)]
        decoded = torch.cat([backbone.decode_latents(backbone.encode_image(chunk)) for chunk in moved]).cpu()
        return list(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())

    return spoil


def accuracy(cases: Sequence[Case]) -> dict[str, Any]:
    """Shares of actor, place and phrases judged right, and errors of limb angles and joints, as JSON."""
    errors = np.array(
        [[distance(n, getattr(c.verdict.pose, n), getattr(c.scene.pose, n)) for n in LIMBS] for c in cases]
    )
    return {
        "actor": share([c.verdict.actor == c.scene.actor for c in cases]),
        "place": share([c.verdict.place == c.scene.place for c in cases]),
        "things": share([c.verdict.things == c.scene.things for c in cases]),
        "light": share([c.verdict.light == c.scene.light for c in cases]),
        "limb angle error, median degrees": round(float(np.median(errors)), 2),
        "limb angle error, 90th percentile": round(float(np.quantile(errors, 0.9)), 2),
        "joint error, mean share of height": round(float(np.mean([c.joint_error for c in cases])), 4),
        "phrases judged right": share([phrase_holds(phrase, c.verdict.pose) for c in cases for phrase in c.phrases]),
    }


def false_alarms(cases: Sequence[Case], seed: int) -> dict[str, Any]:
    """How often the judges would see what is not there: a phrase, actor or place other than the drawn one, as JSON.

    The phrase asked for is one of nano's that the true pose does not satisfy.
    """
    part, rng = drawn_part(RECIPE), np.random.default_rng([seed, 995])
    phrase, actor, place = [], [], []
    for case in cases:
        wrong = [p for p in part.phrases if not phrase_holds(p, case.scene.pose)]
        phrase.append(phrase_holds(wrong[rng.integers(len(wrong))], case.verdict.pose))
        actor.append(case.verdict.actor == rng.choice([a for a in part.actors if a != case.scene.actor]))
        place.append(case.verdict.place == rng.choice([p for p in part.places if p != case.scene.place]))
    return {"wrong phrase": share(phrase), "wrong actor": share(actor), "wrong place": share(place)}


@dataclass(frozen=True)
class Wrong:
    """A scene that differs in one thing from what is asked of the picture.

    Attributes:
        how: `MIRRORED`, `OFF`, `OTHER_ACTOR` or `OTHER_PLACE`.
        scene: As it is drawn.
        asked: The actor, place or phrase that it does not show.
    """

    how: str
    scene: Scene
    asked: str

    def called_right(self, verdict: Verdict) -> bool:
        """Whether a verdict sees what is asked all the same."""
        if self.how == OTHER_ACTOR:
            return verdict.actor == self.asked
        if self.how == OTHER_PLACE:
            return verdict.place == self.asked
        return phrase_holds(self.asked, verdict.pose)


def wrong_scenes(scenes: Sequence[Described], seed: int) -> list[Wrong]:
    """Wrong drawings of scenes of the caption grammar: alternately with the pose mirrored and another actor, or with a
    value off and another place. A pose is only taken where it breaks a phrase of the caption.
    """
    part, rng = drawn_part(RECIPE), np.random.default_rng([seed, 996])
    wrong: list[Wrong] = []
    for index, item in enumerate(scenes):
        scene = item.scene
        if index % 2:
            how, poses = OFF, _one_value_off(item)
            place = str(rng.choice([p for p in part.places if p != scene.place]))
            wrong.append(Wrong(OTHER_PLACE, replace(scene, place=place), scene.place))
        else:
            how, poses = MIRRORED, [(phrase, scene.pose.mirrored()) for phrase in item.phrases]
            actor = str(rng.choice([a for a in part.actors if a != scene.actor]))
            wrong.append(Wrong(OTHER_ACTOR, replace(scene, actor=actor), scene.actor))
        broken = [(phrase, pose) for phrase, pose in poses if not phrase_holds(phrase, pose)]
        if broken:
            phrase, pose = broken[rng.integers(len(broken))]
            wrong.append(Wrong(how, replace(scene, pose=pose), phrase))
    return wrong


def _one_value_off(item: Described) -> list[tuple[str, Pose]]:
    """Every phrase of the caption with every pose that misses one of its values by two tolerances, within the range."""
    poses = []
    for phrase in item.phrases:
        drawn = next(meaning for meaning in meanings()[phrase] if meaning.holds(item.scene.pose))
        for name, target in drawn.targets.items():
            for value in (target.value - 2 * target.tolerance, target.value + 2 * target.tolerance):
                if DOFS[name].low <= value <= DOFS[name].high:
                    poses.append((phrase, item.scene.pose.with_values({name: value})))
    return poses


def called_right(wrong: Sequence[Wrong], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """For every way to be wrong, the share of pictures in which the asked thing is seen all the same, as JSON."""
    rows = [(w.how, w.called_right(verdict)) for w, verdict in zip(wrong, verdicts, strict=True)]
    ways = (MIRRORED, OFF, OTHER_ACTOR, OTHER_PLACE)
    return {way: share([hit for how, hit in rows if how == way]) for way in ways}


def calibrate(
    judges: Judges, backbone: Backbone, count: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Any], list[Case]]:
    """The judges on pictures of the grammar, freely posed ones and VAE round trips, on wrong expectations of true
    drawings, and on wrong drawings.

    Args:
        judges: To be measured.
        backbone: Whose VAE the round trips go through.
        count: Pictures of each sort; nearly twice as many wrong ones.
        seed: Of the scenes.
        progress: Called with (pictures judged, pictures in all), every few of them.

    Returns:
        The figures as JSON, and the cases of the grammar, worst joints first.
    """
    scenes = drawn_scenes(count, seed)
    wrong = wrong_scenes(scenes, seed)
    whole = 3 * count + len(wrong)

    def after(before: int) -> Callable[[int], None]:
        return lambda done: None if progress is None else progress(before + done, whole)

    plain = judged(judges, scenes, progress=after(0))
    decoded = judged(judges, scenes, round_trip(backbone), after(count))
    free = judged(judges, drawn_scenes(count, seed, free=True), progress=after(2 * count))
    drawn_wrong = judged(judges, [Described(w.scene, "", ()) for w in wrong], progress=after(3 * count))
    figures = {
        "poses of the captions": accuracy(plain),
        "the same after the VAE": accuracy(decoded),
        "poses drawn freely": accuracy(free),
        "seen although not there": false_alarms(plain, seed),
        "called right although drawn wrong": called_right(wrong, [case.verdict for case in drawn_wrong]),
    }
    return figures, sorted(plain, key=lambda case: -case.joint_error)


def hardest(cases: Sequence[Case], count: int = 24) -> Image.Image:
    """The first cases as pairs, four a row: the picture, and its actor redrawn in the judged pose."""
    size = RECIPE.image_size
    shown = [(np.asarray(case.picture), draw(case.seen, size)) for case in cases[:count]]
    return contact_sheet([Image.fromarray(picture) for pair in shown for picture in pair], columns=8)
