"""What every kind of task and every metric of the benchmark promise, with the judges that are shipped."""

import json
import re
from pathlib import Path

import pytest

from twinact import PLACEHOLDER
from twinact.backbones.shipped import judges_dir
from twinact.bench.contracts import Metric, Task
from twinact.bench.kinds import TASKS
from twinact.bench.metrics import SOMEONE, Asked, diversity, judged
from twinact.bench.poses import PoseAsked
from twinact.bench.tasks import one_joint_wrong
from twinact.bench.world import TRUE, WORDS, WRONG
from twinact.data.exemplars import read_exemplars
from twinact.world.judges.judges import Judges, Verdict
from twinact.world.pose import DOFS, PartialPose, Pose
from twinact.world.splits import CUSTOM_ACTIONS, DEV_ACTIONS, Shared


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges.load(judges_dir())


def first(name: str, pictures: int = 2) -> Task:
    return TASKS[name].make(TASKS[name].test[0], pictures)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_asks_for_the_action_of_actors_that_its_exemplars_do_not_show(name: str, tmp_path: Path) -> None:
    task = first(name, 4)
    assert len(task.requests) == 4 and all(PLACEHOLDER in request.prompt for request in task.requests)
    assert not {request.wanted.actor for request in task.requests} & set(task.unsaid)
    task.write_exemplars(tmp_path, 64)
    captions = read_exemplars(tmp_path).captions
    count = re.search(r"-(\d+)$", name)
    assert len(captions) == (int(count[1]) if count else 5)
    assert all(PLACEHOLDER in caption for caption in captions)
    said = " ".join((*captions, *(request.prompt for request in task.requests)))
    for one in task.requests:
        if isinstance(one.wanted, Asked) and one.wanted.shared is not None:
            assert one.wanted.shared.place not in said and one.wanted.shared.thing not in said


def test_someone_is_one_actor_whom_nobody_names(tmp_path: Path) -> None:
    task = first("someone", 4)
    (actor,) = task.unsaid
    task.write_exemplars(tmp_path, 64)
    truth = json.loads((tmp_path / "truth.json").read_text())["pictures"].values()
    assert {one["actor"] for one in truth} == {actor}
    assert all(caption.startswith(f"someone {PLACEHOLDER} ") for caption in read_exemplars(tmp_path).captions)
    assert [request.wanted.actor == SOMEONE for request in task.requests] == [False, True, False, True]
    assert all(request.prompt.startswith("someone ") for request in task.requests[1::2])


def test_empty_captions_say_no_more_than_that_it_is_a_photo(tmp_path: Path) -> None:
    first("empty").write_exemplars(tmp_path, 64)
    assert set(read_exemplars(tmp_path).captions) == {f"a photo of {PLACEHOLDER}"}


def test_dev_and_test_actions_are_others_and_the_first_few_are_of_all_kinds() -> None:
    kind = TASKS["unsaid"]
    assert sorted(kind.test) == sorted(CUSTOM_ACTIONS) and sorted(kind.dev) == sorted(DEV_ACTIONS)
    assert {CUSTOM_ACTIONS[name].kind for name in kind.test[:3]} == {"combination", "between", "free"}


@pytest.mark.parametrize("name", ["unsaid", "someone", "photographs"])
def test_a_metric_gives_each_picture_the_same_names(name: str, judges: Judges) -> None:
    metric, task = TASKS[name].metric(judges), first(name)
    assert isinstance(metric, Metric)
    drawings = first("said").drawings[TRUE](64)
    rows = metric.measure(drawings, task)
    assert len(rows) == 2 and rows[0].keys() == rows[1].keys() >= {"clean", "near", "action", "actor"}
    assert all(value is None or 0 <= value <= 1 for row in rows for key, value in row.items() if key != "degrees")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unsaid", "someone"])
def test_true_drawings_are_right_and_those_with_a_joint_wrong_are_not(name: str, judges: Judges) -> None:
    task, metric = first(name, 6), TASKS[name].metric(judges)
    assert task.words.keys() == set(WORDS) and all(len(texts) == 6 for texts in task.words.values())
    right, wrong = (metric.measure(task.drawings[which](128), task) for which in (TRUE, WRONG))
    assert sum(row["clean"] or 0 for row in right) >= 5 and sum(row["action"] or 0 for row in wrong) <= 1


@pytest.mark.slow
def test_limbs_of_a_photographed_pose_are_seen_where_the_world_draws_it(judges: Judges) -> None:
    """ "warrior" has its arms level to both sides: a T pose has its arms right and its legs wrong."""
    name = "warrior, right knee bent"
    task = TASKS["photographs"].make(name, 3)
    assert isinstance(task.requests[0].wanted, PoseAsked) and task.unsaid == () and not task.drawings
    arms = DEV_ACTIONS["dev-half-plie"]
    level = TASKS["said"].make(arms.name, 3).drawings[TRUE](128)
    kicked = TASKS["said"].make("dev-reach-kick", 3).drawings[TRUE](128)
    rows, others = (TASKS["photographs"].metric(judges).measure(drawn, task) for drawn in (level, kicked))
    assert all((a["near"] or 0) > (b["near"] or 0) for a, b in zip(rows, others, strict=True))
    assert all(row["degrees"] is not None and row["degrees"] < 30 for row in rows)


def test_one_joint_wrong_misses_by_two_tolerances_within_the_range() -> None:
    for action in DEV_ACTIONS.values():
        asked = Asked(action.pose, "robot", "park")
        for seed in range(8):
            moved = one_joint_wrong(asked, seed).action.targets
            (name,) = (key for key in moved if moved[key] != action.pose.targets[key])
            target = action.pose.targets[name]
            assert abs(moved[name].value - target.value) == pytest.approx(2 * target.tolerance)
            assert DOFS[name].low <= moved[name].value <= DOFS[name].high


def test_what_leaks_is_told_where_the_prompt_leaves_it_open() -> None:
    action, right = PartialPose.parse("l_shoulder=90"), Pose(l_shoulder=90)
    verdict = Verdict(right, "panda", "park", ("crown",), "night")
    named = judged(verdict, Asked(action, "panda", "park", ("fox",), Shared("moon", "crown", "night")))
    assert (named["joint"], named["clean"], named["leak_thing"], named["leak_light"]) == (1, 0, 1, 1)
    assert named["leak_place"] is None and named["leak_actor"] == 0
    unnamed = judged(verdict, Asked(action, SOMEONE, None, ("panda",), Shared("park", "hat", "day")))
    assert unnamed["actor"] is None and unnamed["joint"] == 1 and unnamed["clean"] == 0
    assert (unnamed["leak_actor"], unnamed["leak_place"], unnamed["leak_thing"]) == (1, 1, 0)
    assert judged(Verdict(right, "fox", "park"), Asked(action, SOMEONE, "park", ("panda",)))["clean"] == 1


def test_diversity_is_the_chance_that_another_picture_shows_something_else() -> None:
    assert diversity(["park", "park", None, "park"]) == [0, 0, None, 0]
    assert diversity(["park", "moon", "park"]) == [0.5, 1, 0.5]
    assert diversity([None, "park"]) == [None, None]
