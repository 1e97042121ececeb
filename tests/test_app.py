"""The page without a browser: its folder, what it takes, its settings, its mixes and its guard."""

import json
import re
import shlex
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from commands import done
from small import exemplars_in
from twinact.action import Action
from twinact.app import settings
from twinact.app.exemplars import MAX_FILES, check, keep, take
from twinact.app.folder import WorkFolder
from twinact.app.mixing import Mix, commands, mixed
from twinact.app.runs import Runs
from twinact.app.studio import Sheet, Studio, grid
from twinact.backbones.shipped import model_dir
from twinact.bench.examples import examples
from twinact.bench.poses import photographed_poses
from twinact.configs import LearnConfig
from twinact.errors import ConfigError, DataError, TwinactError
from twinact.intent import Meant
from twinact.jobs.models import open_model
from twinact.jobs.resources import choose_resources
from twinact.report.phrase_map import map_svg, stick_svg
from twinact.report.plane import phrase_plane
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.space.limbs import SEGMENTS

TREE = photographed_poses()["tree, palms overhead, on the left leg"]
STRANGE = ["../secret", "..", "/etc/passwd", "a/../../b", "C:\\x", "", "a\0b", "leap.action", "<script>", "~", "ähm"]


@pytest.fixture(scope="module")
def phrases() -> ActionSpace:
    """Nano's own space, which knows what its phrases look like."""
    return ActionSpace.load(model_dir() / SPACE_FILE)


@pytest.fixture(scope="module")
def two(phrases: ActionSpace) -> dict[str, Action]:
    """Two actions, each of a phrase."""
    made = {}
    for name, phrase in (("lunge", "arms overhead"), ("kick", "left knee up")):
        u, mask = phrases.project_phrase(phrase)
        made[name] = Action.from_coefficients(name, phrases, u, mask=mask)
    return made


class TestFolder:
    @pytest.mark.parametrize("name", STRANGE)
    def test_names_that_are_no_names_of_actions_lead_nowhere(self, tmp_path: Path, name: str) -> None:
        folder = WorkFolder(tmp_path)
        for place in (folder.exemplars, folder.run, folder.mixed):
            with pytest.raises(ConfigError):
                place(name)
        with pytest.raises(DataError):
            folder.action(name)

    def test_links_and_hidden_files_are_passed_over(self, tmp_path: Path, two: dict[str, Action]) -> None:
        folder, elsewhere = WorkFolder(tmp_path / "page"), tmp_path / "elsewhere"
        two["kick"].save(elsewhere / "kick.action.safetensors")
        (elsewhere / "report.html").write_text("secret")
        two["lunge"].save(folder.mixed("lunge"))
        (folder.root / "runs").mkdir()
        (folder.root / "runs" / "kick").symlink_to(elsewhere)
        (folder.root / "demo").symlink_to(elsewhere)
        folder.mixed("linked").symlink_to(elsewhere / "kick.action.safetensors")
        assert list(folder.actions()) == ["lunge"]
        assert folder.runs() == [] and folder.reports() == {}

    def test_a_free_name_leaves_room_and_is_free(self, tmp_path: Path) -> None:
        folder = WorkFolder(tmp_path)
        long = "half-moon-on-the-right-leg-once-more"
        names = []
        for _ in range(3):
            names.append(folder.free_name(long))
            folder.exemplars(names[-1]).mkdir(parents=True)
        assert len(set(names)) == 3
        for name in names:
            folder.run(f"{name}-start")


class TestExemplars:
    def test_pictures_are_checked_and_their_limbs_read(self, tmp_path: Path) -> None:
        take(TREE, tmp_path / "draft")
        seen = check(tmp_path / "draft", None)
        assert seen.problems == () and len(seen.tiles) == len(seen.captions) == len(TREE)
        assert all("% sure" in told for _, told in seen.tiles)
        assert any("no caption" in note for note in seen.notes)

    def test_what_cannot_be_used_is_named_with_its_file(self, tmp_path: Path) -> None:
        given = tmp_path / "given"
        exemplars_in(given, 2)
        (given / "bad.png").write_text("no picture")
        (given / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        take(sorted(given.iterdir()), tmp_path / "draft")
        seen = check(tmp_path / "draft", None)
        assert len(seen.problems) == 2 and seen.tiles == ()
        assert [one.split()[0] for one in seen.problems] == ["bad.png", "bomb.png"]

    @pytest.mark.parametrize(("names", "why"), [
        (["a.svg"], "of no kind"), (["..png.exe"], "of no kind"), (["a?.png", "a*.png"], "two files are called"),
    ])  # fmt: skip
    def test_other_files_are_refused(self, tmp_path: Path, names: list[str], why: str) -> None:
        for name in names:
            (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError, match=why):
            take([tmp_path / name for name in names], tmp_path / "draft")

    def test_files_are_bounded_in_number_and_bytes(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="at most 100"):
            take([tmp_path / "a.png"] * (MAX_FILES + 1), tmp_path / "draft")
        large = tmp_path / "large.png"
        with large.open("wb") as file:
            file.truncate(60_000_000)
        with pytest.raises(DataError, match="more than 50 MB"):
            take([large], tmp_path / "draft")

    @pytest.mark.slow
    def test_captions_of_the_page_go_with_the_pictures(self, tmp_path: Path) -> None:
        exemplars_in(tmp_path / "draft", 2)
        told = {"0.png": "a chef <act> in a park", "../x.png": "lost"}
        target = keep(tmp_path / "draft", tmp_path / "exemplars" / "leap", told)
        assert {path.name for path in target.iterdir()} == {"0.png", "1.png", "0.txt"}
        assert check(target, None).captions[0] == ("0.png", "a chef <act> in a park")
        assert [path.name for path in target.parent.iterdir()] == ["leap"]
        with pytest.raises(DataError, match="there already"):
            keep(tmp_path / "draft", target, {})

    @pytest.mark.slow
    def test_captions_are_written_where_the_page_has_others_than_the_files(self, tmp_path: Path) -> None:
        exemplars_in(tmp_path / "draft", 3)
        (tmp_path / "draft" / "0.CAPTION").write_text("a chef <act>")
        (tmp_path / "draft" / "captions.json").write_text(json.dumps({"1.png": "a robot <act>"}))
        told = dict(check(tmp_path / "draft", None).captions)
        same = keep(tmp_path / "draft", tmp_path / "exemplars" / "same", told)
        assert {path.name for path in same.iterdir()} == {path.name for path in (tmp_path / "draft").iterdir()}
        changed = {"0.png": "a panda <act>", "1.png": told["2.png"], "2.png": told["2.png"]}
        kept = keep(tmp_path / "draft", tmp_path / "exemplars" / "changed", changed)
        assert dict(check(kept, None).captions) == changed and check(kept, None).problems == ()

    @pytest.mark.slow
    @pytest.mark.parametrize("label", ["drawn: archer", "photographs: bound angle"])
    def test_examples_can_be_learned_from(self, tmp_path: Path, label: str) -> None:
        examples()[label](tmp_path / "draft", 128)
        assert check(tmp_path / "draft", None).problems == ()


class TestSettings:
    def test_every_row_is_a_setting_and_untouched_rows_give_nothing(self) -> None:
        table = settings.rows()
        assert settings.given(table) == {}
        names = [name for name, _, _ in table]
        assert len(names) == len(set(names)) and {"steps", "clauses", "method", "preview_every"} <= set(names)

    def test_what_is_changed_is_given_in_its_type(self) -> None:
        table = [
            [name, {"steps": "7", "prior_weight": "0.5"}.get(name, value), told]
            for name, value, told in settings.rows()
        ]
        given = settings.given(table)
        assert given == {"steps": 7, "prior_weight": 0.5}
        assert LearnConfig.from_dict({"name": "leap", **given}).steps == 7

    def test_a_word_for_a_number_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="steps 'many' must be a whole number"):
            settings.given([["steps", "many", ""]])


class TestMix:
    def test_a_mix_that_moves_nothing_is_the_action(self, phrases: ActionSpace, two: dict[str, Action]) -> None:
        action, remark = mixed(Mix(base="kick", sliders={"arms up": 0.0}), two, phrases)
        assert action is two["kick"] and remark == ""

    @pytest.mark.slow_but("weights", "balanced")
    @pytest.mark.parametrize("mix", [
        Mix(base="lunge", sliders={"arms up": -0.5, "left arm up": 1.0}, toward="left knee up", amount=0.25),
        Mix(base="lunge", other="kick", part="legs", sliders={"lean left": -0.3}),
        Mix(base="lunge", other="kick", weights=(1.0, -0.5)),
        Mix(base="lunge", other="kick"),
    ], ids=["sliders", "parts", "weights", "balanced"])  # fmt: skip
    def test_its_commands_make_the_same_action(
        self, tmp_path: Path, phrases: ActionSpace, two: dict[str, Action], mix: Mix
    ) -> None:
        phrases.save(tmp_path / SPACE_FILE)
        files = {name: str(action.save(tmp_path / f"{name}.action.safetensors")) for name, action in two.items()}
        nano = open_model("nano", choose_resources("nano").precision)
        action, _ = mixed(mix, two, phrases, "both", Meant.of(nano, phrases))
        lines = commands(mix, files, {name: name for name in two}, "nano", tmp_path / "both.action.safetensors")
        for line in lines:
            done(*shlex.split(line)[1:])
        made = Action.load(tmp_path / "both.action.safetensors")
        assert made.name == "both"
        assert all(torch.equal(a, b) for a, b in zip(made.vectors, action.vectors, strict=True))

    def test_what_cannot_be_mixed_is_told(self, phrases: ActionSpace, two: dict[str, Action]) -> None:
        with pytest.raises(TwinactError, match="take two of different names"):
            mixed(Mix(base="kick", other="kick"), two, phrases)
        with pytest.raises(ConfigError, match=r"amount 2\.0"):
            mixed(Mix(base="kick", sliders={"arms up": 2.0}), two, phrases)


@pytest.mark.slow
def test_what_the_page_draws_and_what_its_command_draws_have_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phrases: ActionSpace, two: dict[str, Action]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = WorkFolder(tmp_path)
    two["kick"].save(folder.mixed("kick"))
    studio = Studio(folder, "nano")
    sheet = Sheet(("a panda <act> in a park", "a fox <act>"), seeds=(5, 6), steps=2, negative_prompt="a dog")
    drawn = studio.draw(sheet, studio.load("kick"))
    done(*shlex.split(studio.command(sheet, "kick"))[1:])
    paths = sorted((tmp_path / "pictures").glob("*.png"))
    assert len(paths) == len(drawn) == 4
    for path, picture in zip(paths, drawn, strict=True):
        with Image.open(path) as other:
            assert other.tobytes() == picture.tobytes()
    alone = studio.draw(sheet, None)
    assert alone[0].tobytes() != drawn[0].tobytes()
    with pytest.raises(DataError, match="65 pictures"):
        studio.draw(Sheet(("a fox <act>",), seeds=tuple(range(65))), None)


@pytest.mark.slow
def test_whoever_asks_the_model_works_in_one_thread(tmp_path: Path) -> None:
    studio = Studio(WorkFolder(tmp_path), "nano")
    seen: set[threading.Thread] = set()

    def draw() -> None:
        studio.draw(Sheet(("a fox <act>",), steps=1), None, lambda *_: seen.add(threading.current_thread()))

    askers = [threading.Thread(target=draw) for _ in range(3)]
    for one in askers:
        one.start()
    for one in askers:
        one.join()
    assert len(seen) == 1


def test_a_sheet_has_a_picture_of_every_prompt_and_seed() -> None:
    prompts = grid(["a panda", "a fox"], ["in a park", "on a beach"])
    assert prompts[1] == "a panda <act> on a beach" and len(Sheet(prompts, seeds=(3, 4)).shots) == 8
    assert grid(["a fox"], []) == ("a fox <act>",)


def test_the_map_holds_every_phrase_and_what_lies_beyond_them(phrases: ActionSpace) -> None:
    plane = phrase_plane(phrases)
    far = tuple((3 * plane.points.amax(dim=0)).tolist())
    drawing = map_svg(plane, phrases.phrases, {}, found=["arms overhead"], marks=[("<b>mine</b>", (far[0], far[1]))])
    assert drawing.count("<circle") == len(phrases.phrases) and "<b>" not in drawing
    assert '<text class="found"' in drawing
    x, y = map(float, re.findall(r'class="star" transform="translate\((\S+) (\S+)\)"', drawing)[0])
    assert 0 <= x <= 960 and 0 <= y <= 640


def test_a_stick_figure_shows_the_limbs_where_they_point(phrases: ActionSpace) -> None:
    assert phrases.poses is not None
    heights = {}
    for phrase in ("arms overhead", "touching the toes"):
        drawn = stick_svg(phrases.poses.directions[phrases.phrases.index(phrase), :SEGMENTS], phrase)
        (left_arm,) = re.findall(r'points="([^"]*)" style="stroke:#ff9f1c"', drawn)[:1]
        heights[phrase] = float(left_arm.split()[-1].split(",")[1])
    assert heights["arms overhead"] < -1.5 < -0.5 < heights["touching the toes"]


@pytest.mark.slow
def test_leaks_against_rank_are_told_of_the_model_at_hand(tmp_path: Path, model: Path) -> None:
    tab = pytest.importorskip("twinact.app.tabs.space", reason="the extra app is not installed", exc_type=ImportError)
    common = pytest.importorskip("twinact.app.tabs.common")
    folder = WorkFolder(tmp_path)
    told = {}
    for name in ("nano", str(model)):
        studio = Studio(folder, name)
        kept, others = (share.mean(dim=0) for share in studio.let_in())
        assert len(kept) == studio.space.rank and bool((others.diff() >= 0).all())
        told[name] = tab._leaks(common.Page(folder, studio, Runs(folder, name), tmp_path))
        rank = min(16, studio.space.rank)
        shares = f"keep {kept[rank - 1]:.0%} of the phrases&#x27; variance and let in {others[rank - 1]:.0%} of"
        assert f"The first {rank} {shares}" in told[name] and "data:image/png;base64," in told[name]
    # The figures of docs/space.md.
    assert "keep 67% of the phrases&#x27; variance and let in 25% of" in told["nano"]


def test_pictures_of_limbs_have_the_sizes_of_the_page(tmp_path: Path) -> None:
    take(TREE[:2], tmp_path / "draft")
    for path in (tmp_path / "draft").glob("*.png"):
        with Image.open(path) as picture:
            assert picture.size == (320, 320)
    facts = [json.loads(path.read_text()) for path in (tmp_path / "draft").glob("*.json")]
    assert len(facts) == 2
