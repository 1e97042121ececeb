"""The pose table: what phrases look like, alone and together, and which of them look like a pose."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from twinact.backbones.backbone import Backbone, TextCond
from twinact.intent.pose_table import pose_table
from twinact.intent.prompts import ACTORS, PLACES, other_prompts
from twinact.jobs.known import unknown_words
from twinact.jobs.models import open_model
from twinact.phrases.wording import said
from twinact.readers.body import height_directions
from twinact.space import ActionSpace
from twinact.space.pose_table import PoseTable

DOWN, LEFT, UP = (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)


def table(*rows: Sequence[Sequence[float]]) -> PoseTable:
    """Phrases whose two segments (or fewer) point so; at rest they hang down."""
    return PoseTable.of(torch.tensor(rows), torch.tensor([DOWN] * len(rows[0])), 4)


def test_phrases_about_different_limbs_add_up_and_contradictions_count_as_undecided() -> None:
    poses = table((LEFT, DOWN), (DOWN, UP), (UP, DOWN))
    wanted, weights = torch.tensor([LEFT, UP]), torch.ones(2)

    def distance(*numbers: int) -> float:
        return float(poses.distances([torch.tensor([n]) for n in numbers], wanted, weights))

    assert distance(0, 1) < 0.01 < distance(0) < distance(2)
    assert distance(0, 1, 2) > 0.3  # one says left and one says up
    # A segment without weight does not count.
    assert float(poses.distances([torch.tensor([0])], wanted, torch.tensor([1.0, 0.0]))) < 0.01


def test_the_nearest_phrases_are_found_alone_and_joined() -> None:
    poses = table((LEFT, DOWN), (DOWN, UP), (UP, DOWN), (DOWN, LEFT))
    found = poses.nearest(torch.tensor([LEFT, UP]), torch.ones(2), clauses=2, count=3)
    assert found[0][0] == (0, 1) and {len(numbers) for numbers, _ in found} == {1, 2}
    assert [value for _, value in found] == sorted(value for _, value in found)
    alone = poses.nearest(torch.tensor([UP, DOWN]), torch.ones(2), clauses=1, count=2)
    assert alone[0][0] == (2,) and len(alone) == 2


def test_strengths_are_those_that_explain_what_two_phrases_look_like_together() -> None:
    poses = table((LEFT, DOWN), (UP, DOWN))
    pair = torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)
    taught = poses.with_strengths(*pair, torch.tensor([[LEFT, DOWN]]).expand(6, 2, 2))  # the first one wins
    ratio = (taught.strengths[0, 0] / taught.strengths[1, 0]) / (poses.strengths[0, 0] / poses.strengths[1, 0])
    assert ratio > 3

    def distance(poses: PoseTable) -> float:
        numbers = [torch.tensor([0]), torch.tensor([1])]
        return float(poses.distances(numbers, torch.tensor([LEFT, DOWN]), torch.ones(2)))

    assert distance(taught) < 0.7 * distance(poses)


def test_a_height_tells_phrases_apart_whose_limbs_look_alike() -> None:
    on_the_ground, in_the_air = height_directions(torch.tensor([0.0, 0.5])).tolist()
    poses = table((LEFT, on_the_ground), (LEFT, in_the_air))
    wanted, weights = torch.tensor([LEFT, in_the_air]), torch.ones(2)
    assert poses.nearest(wanted, weights, 1, 1)[0][0] == (1,)
    without = table((LEFT,), (UP,))
    assert without.nearest(wanted, weights, 1, 1)[0] == ((0,), pytest.approx(0.0, abs=1e-3))


def test_what_scatters_is_far_from_everything() -> None:
    poses = table((LEFT, DOWN), ((-0.3, 0.0), DOWN))
    distances = poses.distances([torch.tensor([0, 1])], torch.tensor([LEFT, DOWN]), torch.ones(2))
    assert distances[0] < 0.01 and distances[1] > 0.4
    assert poses.score.tolist() == pytest.approx([1.0, 0.65])


class Meant:
    segments = ((0, 1), (1, 2))
    steps = 1

    def read(self, backbone: Backbone, cond: TextCond, noise: Tensor) -> Tensor:
        return F.normalize(cond.hidden.mean(dim=1)[:, :4].unflatten(1, (2, 2)), dim=2)


def test_a_table_is_built_stored_and_no_part_of_the_hash(backbone: Backbone, space: ActionSpace, tmp_path) -> None:
    calls: list[tuple[int, int]] = []
    poses = pose_table(
        backbone, Meant(), space.phrases, drawings=2, progress=lambda done, every: calls.append((done, every))
    )
    assert poses.directions.shape == (len(space.phrases), 2, 2) and calls[-1][0] == calls[-1][1]
    assert bool((poses.directions.norm(dim=2) <= 1 + 1e-6).all())
    both = torch.equal(poses.directions, pose_table(backbone, Meant(), space.phrases, drawings=2).directions)
    assert both  # no chance
    with_poses = replace(space, poses=poses)
    loaded = ActionSpace.load(with_poses.save(tmp_path / "x.space.safetensors"))
    assert loaded.poses is not None and torch.equal(loaded.poses.strengths, poses.strengths)
    assert loaded.hash == space.hash and ActionSpace.load(space.save(tmp_path / "y.space.safetensors")).poses is None


def test_prompts_name_others_than_the_exemplars_show() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = other_prompts(generator, 200, ["a panda <act> in a park"])
    assert not any("panda" in prompt for prompt in prompts) and len(set(prompts)) > 50
    assert said("a panda <act> in a park", "arms crossed") == "a panda with arms crossed in a park"
    assert said("a panda <act> in a park", "waving both hands") == "a panda waving both hands in a park"
    assert said("a panda <act> in a park", "") == "a panda in a park"


def test_the_embedded_model_knows_all_words_of_the_prompts() -> None:
    assert unknown_words(open_model("nano"), [*ACTORS, *PLACES]) == []
