"""The command line on a tiny Stable Diffusion, from space to pictures and other tools, and with unusable input."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from commands import content, done, invoke, refused
from small import learn
from twinact.action import Action
from twinact.backbones import load, model_id
from twinact.configs import LearnConfig, TwinActConfig
from twinact.jobs.models import open_model
from twinact.sample import draw
from twinact.space import ActionSpace

PHRASES = "# Body\njumping\njumping in the park\na red dress\nin the city\non the moon\nwith a cat\na dog in the park\n"
PROMPT = "a robot <act> on the moon"


@pytest.fixture(scope="module")
def exemplars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "leap"
    folder.mkdir()
    for index, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 48), colour).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a robot <act> in the {colour} park")
    return folder


@pytest.fixture(scope="module")
def space(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spaces")
    (folder / "phrases.txt").write_text(PHRASES)
    result = done("space", "build", "--model", model, "--phrases", folder / "phrases.txt", "--slots", "2",
                  "--out", folder / "tiny")  # fmt: skip
    return Path(result.stdout.strip())


@pytest.fixture(scope="module")
def learned(model: Path, exemplars: Path, space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "leap"
    result = done("learn", exemplars, "--model", model, "--space", space, "--slots", "2", "--steps", "3", "--out", run)
    return Path(result.stdout.strip())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class TestSpace:
    def test_build_and_show(self, space: Path) -> None:
        assert space.name == "tiny.space.safetensors"
        shown = done("space", "show", space, "--phrase", "jumping").stdout
        assert "phrases  7" in shown
        assert "1.00  jumping" in shown

    def test_show_as_json(self, space: Path) -> None:
        facts = json.loads(done("space", "show", space, "--phrase", "on the moon", "--json").stdout)
        built = ActionSpace.load(space)
        assert facts["hash"] == built.hash
        assert facts["rank"] == built.rank
        assert facts["nearest"][0] == {"phrase": "on the moon", "similarity": 1.0}
        assert [row["rank"] for row in facts["per_slot"]] == list(built.slot_ranks)

    @pytest.mark.slow
    def test_plots(self, space: Path, tmp_path: Path) -> None:
        done("space", "show", space, "--plots", tmp_path / "plots")
        assert {path.name for path in (tmp_path / "plots").iterdir()} == {"scree.png", "map.png"}
        before = content(tmp_path)
        assert "already exists" in refused("space", "show", space, "--plots", tmp_path / "plots")
        assert content(tmp_path) == before

    def test_building_again_gives_the_same_space(self, space: Path, model: Path, tmp_path: Path) -> None:
        (tmp_path / "phrases.txt").write_text(PHRASES)
        done("space", "build", "--model", model, "--phrases", "phrases.txt", "--slots", "2", "--out", "again")
        assert ActionSpace.load("again.space.safetensors").hash == ActionSpace.load(space).hash

    def test_rank_too_high_is_refused(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "phrases.txt").write_text(PHRASES)
        message = refused(
            "space", "build", "--model", model, "--phrases", "phrases.txt", "--rank", "99", "--out", "x", code=2
        )
        assert "rank 99" in message
        assert not list(tmp_path.glob("*.safetensors"))

    def test_what_is_there_stays(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "x.space.safetensors").write_text("mine")
        assert "already exists" in refused("space", "build", "--model", model, "--out", "x")
        assert (tmp_path / "x.space.safetensors").read_text() == "mine"

    def test_unknown_phrase_suggests(self, space: Path) -> None:
        assert "did you mean 'jumping'" in refused("space", "show", space, "--phrase", "jumpin", code=2)


class TestLearn:
    def test_writes_the_action_and_its_space(self, learned: Path, space: Path) -> None:
        action = Action.load(learned)
        assert action.name == "leap"  # from the folder
        assert action.space_hash == ActionSpace.load(space).hash
        assert (learned.parent / "phrases.space.safetensors").is_file()

    @pytest.mark.slow
    def test_says_nearest_phrases_and_what_to_do_next(
        self, model: Path, exemplars: Path, space: Path, tmp_path: Path
    ) -> None:
        result = done("learn", exemplars, "--model", model, "--space", space, "--slots", "2", "--steps", "1")
        assert result.stdout == "runs/leap/leap.action.safetensors\n"
        assert "nearest phrases: " in result.stderr
        assert "next: twinact generate runs/leap/leap.action.safetensors --model" in result.stderr

    def test_done_is_said_and_nothing_changes(self, model: Path, exemplars: Path, space: Path, learned: Path) -> None:
        before = content(learned.parent)
        again = ("learn", exemplars, "--model", model, "--space", space, "--slots", "2", "--steps", "3",
                 "--out", learned.parent, "--json")  # fmt: skip
        facts = json.loads(done(*again).stdout)
        assert facts["already_done"] is True
        assert facts["nearest"]
        assert content(learned.parent) == before

    @pytest.mark.slow
    def test_default_space_and_textual_inversion(self, model: Path, exemplars: Path, tmp_path: Path) -> None:
        done("learn", exemplars, "--model", model, "--steps", "1", "--name", "plain", "--method", "textual-inversion")
        action = Action.load(tmp_path / "runs/plain/plain.action.safetensors")
        assert action.coefficients is None
        message = refused("adjust", "runs/plain/plain.action.safetensors", "--component", "0:0", "--amount", "1",
                          "--out", "moved", code=2)  # fmt: skip
        assert "no coefficients" in message

    @pytest.mark.slow
    def test_a_stopped_run_goes_on_to_the_same_action(self, model: Path, exemplars: Path, space: Path) -> None:
        def stop(step: int) -> None:
            if step == 2:
                raise KeyboardInterrupt

        config = LearnConfig(name="leap", steps=4, slots=2, method=TwinActConfig(similarity_weight=0.0))
        with pytest.raises(KeyboardInterrupt):
            learn(
                exemplars, config, "stopped", backbone=open_model(model), space=ActionSpace.load(space), progress=stop
            )
        command = ("learn", exemplars, "--model", model, "--space", space, "--slots", "2", "--steps", "4",
                   "--precision", "fp32", "--json")  # fmt: skip
        resumed = done(*command, "--out", "stopped")
        assert json.loads(resumed.stdout)["resumed_from"] == 2
        assert "going on with the run in 'stopped'" in resumed.stderr
        done(*command, "--out", "whole")
        stopped, whole = (Action.load(f"{run}/leap.action.safetensors") for run in ("stopped", "whole"))
        assert stopped.coefficients.equal(whole.coefficients)
        assert stopped.space_hash == whole.space_hash

    def test_other_settings_in_the_same_folder_are_refused(
        self, model: Path, exemplars: Path, space: Path, learned: Path
    ) -> None:
        before = content(learned.parent)
        result = invoke("learn", exemplars, "--model", model, "--space", space, "--slots", "2", "--steps", "4",
                        "--out", learned.parent)  # fmt: skip
        assert result.exit_code == 2
        assert "steps (3 there, 4 now)" in result.stderr
        assert "opening model" not in result.stderr  # gigabytes, for nothing
        assert content(learned.parent) == before

    def test_folder_that_is_not_ours_is_told_before_the_model_is_opened(self, exemplars: Path, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("words")
        before = content(tmp_path)
        told = refused("learn", exemplars, "--model", "nowhere", "--out", "mine")
        assert "'mine' is not empty and holds no run of twinact" in told
        assert "thesis.txt' is a file" in refused("learn", exemplars, "--model", "nowhere", "--out", "mine/thesis.txt")
        assert content(tmp_path) == before

    @pytest.mark.parametrize("many", [False, True], ids=["one action", "many actions"])
    def test_unusable_space_is_told_before_the_model_is_opened(
        self, exemplars: Path, many: bool, tmp_path: Path
    ) -> None:
        folder = exemplars.parent if many else exemplars
        told = refused("learn", folder, "--model", "nowhere", "--space", "gone.space.safetensors")
        assert "gone.space.safetensors" in told
        assert not list(tmp_path.iterdir())

    def test_unusable_pictures_are_one_line_before_the_model_is_opened(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        assert "holds no pictures" in refused("learn", "mine", "--model", "nowhere")
        for name in ("a.png", "b.jpg"):
            (tmp_path / "mine" / name).write_bytes(b"broken")
        assert "2 problems: (1) a.png" in refused("learn", "mine", "--model", "nowhere")
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_a_folder_that_names_no_action(self, tmp_path: Path) -> None:
        (tmp_path / "1234").mkdir()
        assert "folder '1234' names its action" in refused("learn", "1234", code=2)

    @pytest.mark.slow
    def test_pictures_without_captions_are_told(self, model: Path, exemplars: Path, tmp_path: Path) -> None:
        shutil.copytree(exemplars, tmp_path / "bare", ignore=shutil.ignore_patterns("*.txt", "*.json"))
        common = ("learn", "bare", "--model", model, "--steps", "1", "--start", "jumping")
        told = done(*common).stderr
        assert "pictures have no caption: 'a photo of someone <act>' is said" in told
        assert re.search(r"unsaid: the actor in (\d) and the place in \1;", told)
        told = done(*common, "--actor", "a woman", "--out", "named").stderr
        assert "'a photo of a woman <act>' is said" in told and "unsaid: the place in" in told
        captions = json.loads((tmp_path / "named/config.json").read_text())["settings"]["captions"]
        assert set(captions) == {"a photo of a woman <act>"}

    def test_missing_folder_and_bad_setting_are_told_at_once(self, exemplars: Path) -> None:
        assert "'nowhere' is not a folder" in refused("learn", "nowhere")
        assert "steps -1 must be" in refused("learn", exemplars, "--steps", "-1", code=2)


class TestGenerate:
    @pytest.mark.slow
    def test_pictures_with_their_origin(self, learned: Path, model: Path, exemplars: Path, tmp_path: Path) -> None:
        result = done("generate", learned, "--model", model, "--prompt", PROMPT, "--count", "2", "--seed", "7",
                      "--steps", "2", "--out", "out")  # fmt: skip
        assert result.stdout.splitlines() == ["out/leap_00000_7.png", "out/leap_00001_8.png"]
        with Image.open(tmp_path / "out/leap_00001_8.png") as image:
            facts = json.loads(image.text["twinact"])
            parameters = image.text["parameters"]
        assert parameters.startswith(f"{PROMPT}\nNegative prompt: \nSteps: 2, Sampler: DDIMScheduler, CFG scale: 7.5, ")
        assert "Seed: 8, Size: 32x32, " in parameters
        assert facts["prompt"] == PROMPT
        assert facts["seed"] == 8
        assert facts["action"]["name"] == "leap"
        assert str(exemplars.parent) not in json.dumps(facts) + parameters
        assert str(learned.parent) not in json.dumps(facts) + parameters

    @pytest.mark.slow
    def test_pictures_are_added_and_depend_on_prompt_and_seed_alone(
        self, learned: Path, model: Path, tmp_path: Path
    ) -> None:
        common = ("generate", learned, "--model", model, "--steps", "2", "--out", "out")
        done(*common, "--prompt", PROMPT)
        first = content(tmp_path)
        done(*common, "--prompt", "a cat <act> in the city", "--prompt", PROMPT, "--batch-size", "1")
        assert first.items() <= {k: v for k, v in content(tmp_path).items() if k.suffix == ".png"}.items() | {
            (path, data) for path, data in first.items() if path.suffix != ".png"
        }
        names = ["leap_00000_0.png", "leap_00001_0.png", "leap_00002_0.png"]
        assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == names
        lines = [json.loads(line) for line in (tmp_path / "out/pictures.jsonl").read_text().splitlines()]
        assert [line["file"] for line in lines] == names
        with Image.open(tmp_path / "out" / names[0]) as one, Image.open(tmp_path / "out" / names[2]) as other:
            assert one.tobytes() == other.tobytes()

    def test_prompt_without_placeholder(self, learned: Path, tmp_path: Path) -> None:
        message = refused("generate", learned, "--prompt", PROMPT, "--prompt", "a cat jumping", "--out", "out")
        assert "'a cat jumping'" in message
        assert "<act>" in message
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_several_actions_in_one_picture(self, learned: Path, model: Path, tmp_path: Path) -> None:
        leap = Action.load(learned)
        other = replace(
            leap,
            name="other",
            vectors=[-vectors for vectors in leap.vectors],
            coefficients=None,
            space_hash="",
            mask=None,
        )
        other.save(tmp_path / "other.action.safetensors")
        files = (learned, "other.action.safetensors")
        common = ("generate", *files, "--model", model, "--precision", "fp32", "--steps", "2", "--out", "out")
        text = "a cat <leap> beside a dog <{}>"
        done(*common, "--prompt", text.format("other"), "--prompt", PROMPT)
        names = [json.loads(line)["file"] for line in (tmp_path / "out/pictures.jsonl").read_text().splitlines()]
        assert names == ["leap_00000_0.png", "other_00001_0.png", "leap-other_00002_0.png"]
        with Image.open(tmp_path / "out" / names[2]) as image:
            facts = json.loads(image.text["twinact"])
            both = image.tobytes()
        assert {said: one["name"] for said, one in facts["actions"].items()} == {"<leap>": "leap", "<other>": "other"}
        vectors = {"<leap>": leap.vectors, "<other>": other.vectors}
        (drawn,) = draw(load(model), [text.format("other")], vectors, seeds=[0], steps=2)
        assert drawn.tobytes() == both
        assert "name all actions" in refused(*common, "--prompt", text.format("act"))
        assert "'other' is in no prompt" in refused(*common, "--prompt", text.format("leap"))

    def test_prompt_that_is_too_long(self, learned: Path, model: Path, tmp_path: Path) -> None:
        prompt = "a robot " * 20 + "<act>"
        refused("generate", learned, "--model", model, "--prompt", prompt, "--out", "out")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("option", ["--seed=99999999999999999999", "--guidance=nan", "--steps=5000"])
    def test_numbers_out_of_range(self, learned: Path, option: str, tmp_path: Path) -> None:
        result = invoke("generate", learned, "--prompt", PROMPT, "--out", "out", option)
        assert result.exit_code == 2 and "Invalid value" in result.stderr
        assert not list(tmp_path.iterdir())

    def test_action_from_another_model(self, learned: Path, model: Path, tmp_path: Path) -> None:
        replace(Action.load(learned), model_id="giant@00000000").save(tmp_path / "other.action.safetensors")
        message = refused("generate", "other.action.safetensors", "--model", model, "--prompt", PROMPT, "--out", "out")
        assert "giant@00000000" in message
        assert "tiny@" in message
        assert not (tmp_path / "out").exists()

    def test_folder_that_is_not_ours(self, learned: Path, tmp_path: Path) -> None:
        (tmp_path / "holiday").mkdir()
        (tmp_path / "holiday" / "beach.png").write_bytes(b"png")
        before = content(tmp_path)
        assert "is not empty" in refused("generate", learned, "--prompt", PROMPT, "--out", "holiday")
        assert content(tmp_path) == before

    def test_files_that_are_no_actions(self, space: Path, tmp_path: Path) -> None:
        (tmp_path / "x.action.safetensors").write_bytes(b"nothing")
        for path in ("x.action.safetensors", "missing.action.safetensors", space):
            refused("generate", path, "--prompt", PROMPT, "--out", "out")
        assert not (tmp_path / "out").exists()


class TestMove:
    def test_adjust_along_a_component(self, learned: Path, tmp_path: Path) -> None:
        result = done("adjust", learned, "--component", "0:1", "--amount", "-2", "--out", "leap-less")
        assert result.stdout == "leap-less.action.safetensors\n"
        before, after = Action.load(learned), Action.load("leap-less.action.safetensors")
        assert after.name == "leap-less"
        difference = after.coefficients - before.coefficients
        assert float(difference[0, 0, 1]) == pytest.approx(-2, abs=1e-6)
        assert int((difference != 0).sum()) == 1

    def test_adjust_toward_a_phrase_and_combine(self, learned: Path, space: Path) -> None:
        done("adjust", learned, "--toward", "jumping in the park", "--amount", "1", "--out", "park.action.safetensors")
        built = ActionSpace.load(space)
        phrase = built.project_phrase("jumping in the park")[0]
        assert Action.load("park.action.safetensors").coefficients[0] == pytest.approx(phrase, abs=1e-5)
        both = ("combine", learned, "park.action.safetensors", "--out")
        done(*both, "even")
        done(*both, "added", "--weights", "1,0.5", "--space", space)
        expected = Action.load(learned).coefficients + 0.5 * phrase
        assert Action.load("added.action.safetensors").coefficients == pytest.approx(expected, abs=1e-5)

    def test_toward_an_action(self, learned: Path) -> None:
        done("adjust", learned, "--component", "0:1", "--amount", "3", "--out", "far")
        done("adjust", learned, "--toward", "far.action.safetensors", "--amount", "0.5", "--space",
             learned.parent / "phrases.space.safetensors", "--out", "middle")  # fmt: skip
        moved = Action.load("middle.action.safetensors").coefficients - Action.load(learned).coefficients
        assert float(moved[0, 0, 1]) == pytest.approx(1.5, abs=1e-5)

    @pytest.mark.parametrize(
        "options",
        [
            ("--amount", "1"),
            ("--amount", "1", "--component", "0:0", "--toward", "jumping"),
            ("--amount", "1", "--component", "first"),
            ("--amount", "1", "--component", "0:999"),
            ("--amount", "1", "--toward", "flying backwards"),
        ],
    )
    def test_unusable_steps(self, learned: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
        refused("adjust", learned, *options, "--out", "new", code=2)
        assert not list(tmp_path.iterdir())

    def test_weights(self, learned: Path, tmp_path: Path) -> None:
        refused("combine", learned, learned, "--weights", "1,much", "--out", "new", code=2)
        refused("combine", learned, learned, "--weights", "1", "--out", "new", code=2)
        refused("combine", learned, "--out", "new", code=2)
        assert not list(tmp_path.iterdir())

    def test_what_is_there_stays(self, learned: Path, tmp_path: Path) -> None:
        (tmp_path / "new.action.safetensors").write_text("mine")
        refused("adjust", learned, "--component", "0:0", "--amount", "1", "--out", "new")
        refused("combine", learned, learned, "--out", "new")
        assert (tmp_path / "new.action.safetensors").read_text() == "mine"


def test_export_and_import(learned: Path, model: Path, tmp_path: Path) -> None:
    result = done("export", learned, "--model", model, "--out", tmp_path / "exports")
    assert "type: twa-leap (" in result.stderr and "embedding:twa-leap (" in result.stderr
    paths = [Path(path) for path in result.stdout.split()]
    assert [path.name for path in paths] == [
        "twa-leap.safetensors", "learned_embeds.safetensors", "twa-leap.comfyui.json", "twa-leap.a1111.txt",
    ]  # fmt: skip
    for path in paths[2:]:
        path.unlink()
    paths = paths[:2]
    back = tmp_path / "back.action.safetensors"
    done("import", paths[0], "--name", "back", "--model", model, "--out", back)
    assert Action.load(back).vectors[0].equal(Action.load(learned).vectors[0])
    for kept, gone in (paths, reversed(paths)):
        content = gone.read_bytes()
        gone.unlink()
        assert f"{kept.name}' already exists" in refused(
            "export", learned, "--model", model, "--out", tmp_path / "exports"
        )
        assert not gone.exists()  # nothing is written before all is looked at
        gone.write_bytes(content)


def test_export_is_for_the_weights_that_the_action_was_made_for(learned: Path, model: Path, tmp_path: Path) -> None:
    made_for = Action.load(learned).model_id
    told = refused("export", learned)  # for nano
    assert f"was made for '{made_for}', --model is 'nano@" in told and "give --model" in told
    shutil.copytree(model, "copy")
    shutil.copytree(model, "other")
    weights = Path("other/unet/diffusion_pytorch_model.safetensors")
    save_file({name: weight + 1 for name, weight in load_file(weights).items()}, weights)
    assert model_id("other") == load("other", "cpu").model_id
    assert f"was made for '{made_for}', --model is '{model_id('other')}'" in refused(
        "export", learned, "--model", "other"
    )
    assert not Path("exports").exists()
    done("export", learned, "--model", "copy")
