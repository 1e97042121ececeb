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

import twinact.nano
import twinact.suited
from twinact.action import Action
from twinact.backbones import load
from twinact.backbones.base import Backbone
from twinact.bench.metrics import Asked
from twinact.bench.tasks import said, true_drawing
from twinact.demo import DemoConfig, run_demo
from twinact.demo_folder import MARKER, DemoFolder
from twinact.errors import ConfigError, DataError
from twinact.nano.recipe import RECIPE
from twinact.shots import (
    Sampler,
    Shot,
    adjust_strips,
    combine_strip,
    draw_shots,
    grid_asks,
    phrase_action,
    strongest_components,
)
from twinact.space import ActionSpace
from twinact.world.scene import WORLD_VERSION
from twinact.world.splits import CUSTOM_ACTIONS, CustomAction, exemplar_scenes

CUSTOM = CUSTOM_ACTIONS["signpost"]
PHRASE_FILES = {"raising-both-arms.action.safetensors", "squatting-low.action.safetensors"}
SMALL = DemoConfig(learn_steps=2, draw_steps=1, actors=2, places=2)


@pytest.fixture(scope="module")
def nano(toy_nano: Path) -> Iterator[Backbone]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twinact.nano, "_WEIGHTS", toy_nano)
        # bf16 rounds a picture differently in batches of another size, by more than a level.
        patch.setattr(twinact.suited, "cpu_computes_bf16", lambda: False)
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
    assert changed == {"report.html", "demo.json", lost.name} | PHRASE_FILES
    # Alone, a picture may be rounded otherwise than in the batch that it was first drawn in.
    first, again = (np.asarray(Image.open(BytesIO(found[lost][0])), dtype=np.int16) for found in (before, after))
    assert np.abs(first - again).max() <= 1

    with pytest.raises(ConfigError, match=r"guidance was 3\.0 and is 2\.0"):
        run_demo(out, replace(SMALL, guidance=2.0))


def test_demo_of_an_older_world_is_refused_and_the_way_out_told(
    nano: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**asdict(SMALL), "model": nano.model_id, "world_version": WORLD_VERSION}
    DemoFolder(tmp_path, settings)
    monkeypatch.setattr("twinact.demo.WORLD_VERSION", WORLD_VERSION + 1)
    with pytest.raises(ConfigError, match=r"world_version was \d+ and is \d+; give a new folder or delete this one"):
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


@pytest.mark.parametrize("custom", CUSTOM_ACTIONS.values(), ids=lambda custom: custom.name)
def test_grids_ask_for_actors_that_the_exemplars_do_not_show(custom: CustomAction) -> None:
    asked = grid_asks(custom, 6, 4)
    pairs = [(ask.asked.actor, ask.asked.place) for ask in asked]
    assert len(set(pairs)) == len({ask.seed for ask in asked}) == 24
    actors, places = list(dict.fromkeys(a for a, _ in pairs)), list(dict.fromkeys(p for _, p in pairs))
    assert pairs == [(actor, place) for actor in actors for place in places]
    assert not set(actors) & set(custom.actors)
    assert set(actors) <= set(RECIPE.actors)
    unseen = set(RECIPE.places) - {scene.place for scene in exemplar_scenes(custom, RECIPE.places)}
    assert set(places[: len(unseen)]) == unseen


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
    assert calls == [(0, 3), (1, 3), (3, 3)]
    assert len(set(first)) == 3
    calls.clear()
    assert draw_shots(nano, shots[::-1], tmp_path, sampler, lambda d, t: calls.append((d, t))) == first[::-1]
    assert calls == [(3, 3)]
    assert draw_shots(nano, [*shots, shots[0]], tmp_path, Sampler(steps=1))[0] != first[0]
    assert len(list(tmp_path.iterdir())) == 6


def test_strips_move_only_the_action(nano: Backbone, space: ActionSpace) -> None:
    u = torch.zeros(space.slots, space.rank)
    u[1, 0], u[0, 2] = 5.0, 0.5
    action = Action.from_coefficients("leap", space, u)
    assert strongest_components(action, space, 1) == [(1, 0)]
    asked = grid_asks(CUSTOM, 6, 4)
    goal, other = (phrase_action(text, space, nano.token_tables()) for text in ("arms up", "squatting low"))
    strips = adjust_strips(action, goal, "arms up", space, asked)
    strips.append(combine_strip(action, other, "squatting low", space, asked))
    assert [strip.title for strip in strips][::2] == ["Along component 1:0", "Towards “arms up”"]
    for strip in strips:
        for row in strip.rows:
            assert len(row) == len(strip.labels)
            assert len({(shot.prompt, shot.seed) for shot in row}) == 1
            assert len({shot.action for shot in row}) == len(row)
    middle = strips[0].rows[0][2].action
    assert middle is not None
    assert torch.allclose(middle.vectors[0], action.vectors[0])
    assert len({row[0].prompt for strip in strips[:3] for row in strip.rows}) == 3


def test_any_words_become_an_action(nano: Backbone, space: ActionSpace) -> None:
    action = phrase_action("Looking up, surprised", space, nano.token_tables())
    assert action.name == "looking-up-surprised"
    assert len(action.vectors[0]) == 3
    assert len(phrase_action("squatting low", space, nano.token_tables()).vectors[0]) == 2
