"""The demo on a tiny model, from an empty folder to the report, stopped and called again."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import twinact.backbones.shipped
import twinact.jobs.resources
from twinact.action import Action
from twinact.backbones import load
from twinact.backbones.backbone import Backbone
from twinact.backbones.shipped import model_dir
from twinact.bench.metrics import Asked
from twinact.bench.tasks import true_drawing
from twinact.demo.config import DemoConfig
from twinact.demo.demo import run_demo
from twinact.demo.folder import MARKER, DemoFolder
from twinact.demo.shots import Sampler, Shot, actor_asks, draw_shots, grid_asks, phrase_action, where_of
from twinact.demo.strips import mixing_strips, slider_strips
from twinact.errors import ConfigError, DataError
from twinact.lora import fresh
from twinact.nano.recipe import RECIPE
from twinact.phrases.wording import said
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.world.scene import WORLD_VERSION
from twinact.world.splits import CUSTOM_ACTIONS, CustomAction, shared_by

pytestmark = pytest.mark.usefixtures("quick_fits")

CUSTOM = CUSTOM_ACTIONS["signpost"]
PHRASE_FILE = "disco-dancing-left.action.safetensors"
SMALL = DemoConfig(learn_steps=4, free_steps=4, actor_steps=2, draw_steps=1, actors=2, places=2)


@pytest.fixture(scope="module")
def nano(toy_nano: Path) -> Iterator[Backbone]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twinact.backbones.shipped, "_WEIGHTS", toy_nano)
        # bf16 rounds a picture differently in batches of another size, by more than a level.
        patch.setattr(twinact.jobs.resources, "cpu_computes_bf16", lambda: False)
        yield load("nano")


@pytest.fixture(scope="module")
def space(nano: Backbone) -> ActionSpace:
    return ActionSpace.build(
        nano.token_tables(),
        ["arms up", "arms crossed", "squatting low", "looking left", "looking right", "doing a star jump"],
        model_id=nano.model_id,
        tokenizer_hash=nano.tokenizer_hash,
    )


def content(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_demo_goes_on_where_it_stopped_and_says_when_it_is_done(
    nano: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    report = run_demo(out, SMALL)
    html = report.read_text(encoding="utf-8")
    assert report == out / "report.html"
    assert str(tmp_path) not in html
    before = content(out)

    capsys.readouterr()
    assert run_demo(out, SMALL) == report
    assert "already done" in capsys.readouterr().err
    assert content(out) == before

    report.unlink()
    lost = sorted((out / "pictures").iterdir())[0]
    lost.unlink()
    run_demo(out, SMALL)
    after = content(out)
    changed = {path.name for path in before if before[path][1] != after[path][1]}
    assert changed == {"report.html", "demo.json", lost.name, PHRASE_FILE}
    # Alone, a picture may be rounded otherwise than in the batch that it was first drawn in.
    first, again = (np.asarray(Image.open(BytesIO(found[lost][0])), dtype=np.int16) for found in (before, after))
    assert np.abs(first - again).max() <= 1

    with pytest.raises(ConfigError, match=r"guidance \(3\.0 there, 2\.0 now\)"):
        run_demo(out, replace(SMALL, guidance=2.0))


def test_demo_of_an_older_world_is_refused_and_the_way_out_told(
    nano: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**asdict(SMALL), "model": nano.model_id, "world_version": WORLD_VERSION}
    DemoFolder(tmp_path, settings)
    monkeypatch.setattr("twinact.demo.demo.WORLD_VERSION", WORLD_VERSION + 1)
    with pytest.raises(ConfigError, match=r"world_version \(\d+ there, \d+ now\); give another folder"):
        run_demo(tmp_path, SMALL)


def test_demo_refuses_other_folders_and_leaves_them(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(DataError, match="holds no demo"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]
    with pytest.raises(DataError, match="is a file"):
        run_demo(tmp_path / "holiday.txt")


def test_stage_keeps_its_seconds_when_it_is_stopped(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path, {"steps": 1})
    with pytest.raises(KeyboardInterrupt), folder.stage("drawing"):
        raise KeyboardInterrupt
    first = folder.seconds["drawing"]
    again = DemoFolder(tmp_path, {"steps": 1})
    assert again.seconds == {"drawing": first}
    with again.stage("drawing"):
        pass
    assert json.loads((tmp_path / MARKER.file).read_text())["seconds"]["drawing"] > first


def test_unknown_action_is_refused() -> None:
    with pytest.raises(ConfigError, match="action 'leap' must be one of flex-lunge"):
        DemoConfig(action="leap")
    for name, value in (("photographed", "leap"), ("actor", "panda"), ("sliders", ("wings up",))):
        with pytest.raises(ConfigError, match="must be one of"):
            DemoConfig(**{name: value})


@pytest.mark.parametrize("custom", CUSTOM_ACTIONS.values(), ids=lambda custom: custom.name)
def test_grids_ask_for_actors_that_the_exemplars_do_not_show(custom: CustomAction) -> None:
    asked = grid_asks(custom, 6, 4)
    pairs = [(ask.asked.actor, ask.asked.place) for ask in asked]
    assert len(pairs) == len({ask.seed for ask in asked}) == 24
    actors, places = list(dict.fromkeys(a for a, _ in pairs)), [place for _, place in pairs[:4]]
    assert pairs == [(actor, place) for actor in actors for place in places]
    assert not set(actors) & set(custom.actors)
    assert set(actors) <= set(RECIPE.actors)
    shared = shared_by(custom, RECIPE.places)
    assert places[:2] == [None, None] and len({*places[2:], shared.place}) == 3
    assert all((where_of(ask) in ask.prompt) == (ask.asked.place is not None) for ask in asked)
    assert all(ask.asked.shared == shared for ask in asked)


def test_words_are_said_as_captions_say_them() -> None:
    assert said("a fox <act> in a park", "waving both hands") == "a fox waving both hands in a park"
    assert said("a fox <act> in a park", "arms crossed") == "a fox with arms crossed in a park"


def test_true_drawings_show_what_was_asked() -> None:
    asked = Asked(CUSTOM.pose, "robot", "park", CUSTOM.actors)
    assert true_drawing(asked, 1, 48).size == (48, 48)
    assert true_drawing(asked, 1, 48).tobytes() != true_drawing(replace(asked, actor="fox"), 1, 48).tobytes()


def test_pictures_are_drawn_once_and_alike_in_any_company(nano: Backbone, space: ActionSpace, tmp_path: Path) -> None:
    moved = Action.from_coefficients("moved", space, torch.ones(space.slots, space.rank))
    prompt = "a robot <act> in a park"
    shots = [Shot(prompt, 1, moved), Shot("a robot squatting low in a park", 1), Shot(prompt, 2, moved)]
    calls: list[tuple[int, int]] = []
    sampler = Sampler(steps=2)
    first = draw_shots(nano, shots, tmp_path, sampler, lambda done, total: calls.append((done, total)))
    assert calls == [(0, 3), (2, 3), (3, 3)]
    assert len(set(first)) == 3
    calls.clear()
    assert draw_shots(nano, shots[::-1], tmp_path, sampler, lambda d, t: calls.append((d, t))) == first[::-1]
    assert calls == [(3, 3)]
    assert draw_shots(nano, [*shots, shots[0]], tmp_path, Sampler(steps=1))[0] != first[0]
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.slow
def test_strips_move_only_the_action() -> None:
    space = ActionSpace.load(model_dir() / SPACE_FILE)
    points, masks = zip(*map(space.project_phrase, ("flexing both biceps", "lunging right")), strict=True)
    action = Action.from_coefficients("leap", space, torch.stack(points), mask=torch.stack(masks))
    other = Action.from_coefficients("squat", space, *space.project_phrase("squatting low")[:1])
    asked = grid_asks(CUSTOM, 6, 4)
    strips = slider_strips(action, SMALL.sliders, space, asked, None)
    assert len({row[0].prompt for strip in strips for row in strip.rows}) == 3
    strips += mixing_strips(action, other, "squatting low", space, asked, None)
    assert [strip.title for strip in strips[-2:]] == ["Parts of “squatting low”", "Towards “squatting low”"]
    for strip in strips:
        for row in strip.rows:
            assert len(row) == len(strip.labels)
            assert len({(shot.prompt, shot.seed) for shot in row}) == 1
            assert len({shot.action for shot in row}) == len(row)
    middle = strips[0].rows[0][2].action
    assert middle is not None
    assert torch.allclose(middle.vectors[0], action.vectors[0])


def test_a_customised_actor_acts_in_every_named_place(nano: Backbone, space: ActionSpace, tmp_path: Path) -> None:
    asked = actor_asks(CUSTOM, "king")
    assert len({ask.prompt for ask in asked}) == len(RECIPE.places) - 1
    assert all(ask.prompt.startswith("<actor> <act> ") and ask.asked.actor == "king" for ask in asked)
    act = Action.from_coefficients("leap", space, torch.ones(space.slots, space.rank))
    width = nano.token_tables()[0].width
    lora = {key: torch.full_like(weight, 0.3) for key, weight in fresh(nano, 2, seed=0).items()}
    actor = Action("king", [torch.ones(2, width)], nano.model_id, lora=lora)
    bare = replace(actor, lora={})
    shots = [Shot(asked[0].prompt, 1, act, one) for one in (actor, bare)] + [Shot("a fox <act>", 1, act)]
    pictures = draw_shots(nano, shots, tmp_path, Sampler(steps=2))
    assert len(set(pictures)) == 3


def test_any_words_become_an_action(nano: Backbone, space: ActionSpace) -> None:
    action = phrase_action("Looking up, surprised", space, nano.token_tables())
    assert action.name == "looking-up-surprised"
    assert len(action.vectors[0]) == 3
    assert len(phrase_action("squatting low", space, nano.token_tables()).vectors[0]) == 2
