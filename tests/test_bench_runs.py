"""The benchmark on a toy model: what its folder holds, who works at what, and what it refuses to mix."""

import json
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from commands import done, invoke, refused
from twinact.backbones import load
from twinact.backbones.shipped import judges_dir, model_dir
from twinact.bench.contestants import AUTOENCODED
from twinact.bench.folder import PICTURES, RESULT, Bench
from twinact.bench.memory import peak_bytes, reset_peak
from twinact.bench.plan import EQUAL, Run
from twinact.bench.presets import MAIN, PRESETS, Preset
from twinact.bench.report import PAGE, RESULTS, TABLE, write_report
from twinact.bench.run import Runner
from twinact.bench.scores import FAILED, Result
from twinact.bench.stages import fill, fill_on_ray
from twinact.bench.world import TRUE, WORDS, WRONG
from twinact.errors import ConfigError, DataError
from twinact.runs.lock import lock
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.world.judges.judges import Judges

pytestmark = pytest.mark.usefixtures("quick_fits")

TOY = Preset(
    contestants=(WORDS[1], "textual-inversion", "pivotal-tuning", TRUE, AUTOENCODED, WRONG), tasks={MAIN: 1}, dev=True,
    pictures=2, sampler_steps=1, passes=60, factors=(1.0,), trials=2, rounds=(1,), own_actions=1, leaders=0, seeds=1,
)  # fmt: skip


def quiet(_text: str) -> None:
    pass


def results_of(folder: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in folder.glob(f"runs/**/{RESULT}")]
    return {one["run"]["contestant"]: one for one in found}


def written(out: Path) -> dict[Path, int]:
    names = {RESULTS, PAGE, TABLE, ".lock"}
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name not in names}


@pytest.fixture(scope="module")
def filled(toy_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark whose runs are all there; tests that write into it take a copy."""
    out = tmp_path_factory.mktemp("bench") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinact.world.judges.body_fit._MOST_EVALUATIONS", 2)
        fill(out, TOY, "run", model=str(toy_nano), precision="fp32", tell=quiet)
    return out


@pytest.mark.slow
def test_a_run_is_one_file_with_all_that_is_known_of_it(filled: Path) -> None:
    found = results_of(filled)
    assert found.keys() == set(TOY.contestants) and all(one["status"] == "done" for one in found.values())
    learned = found["pivotal-tuning"]
    assert learned["config"]["method"] == "pivotal-tuning" and learned["code"].startswith(
        learned["versions"]["twinact"]
    )
    cost = learned["cost"]
    assert learned["passes"] == cost["search"] + cost["forward"] + 2 * cost["backward"] > 0
    assert len(learned["pictures"]) == 2 and {"clean", "near", "leak_thing"} <= learned["pictures"][0].keys()
    assert learned["seconds"] > 0 and learned["bytes"] > 0
    sheets = list(filled.glob(f"runs/**/{PICTURES}"))
    assert len(sheets) == len(TOY.contestants)
    with Image.open(sheets[0]) as sheet:
        assert sheet.width == 2 * sheet.height
    assert not list(filled.glob("runs/**/run"))  # what was learned can be made again


@pytest.mark.slow
def test_all_methods_have_the_same_passes(filled: Path) -> None:
    found = results_of(filled)
    for name in ("textual-inversion", "pivotal-tuning"):
        assert TOY.passes - 24 < found[name]["passes"] <= TOY.passes  # 24 are one step of eight pictures
    assert found[WORDS[1]]["passes"] == 0 and found[WORDS[1]]["config"] is None


@pytest.mark.slow
def test_what_has_layers_drifts_and_what_has_vectors_alone_cannot(filled: Path, toy_nano: Path, tmp_path: Path) -> None:
    found = results_of(filled)
    assert found["textual-inversion"]["drift"] == 0 and found[WORDS[1]]["drift"] is None
    backbone = load(toy_nano)
    runner = Runner(backbone, Judges.load(toy_nano / "judges"))
    fast = {"lora_learning_rate": 5.0, "inversion_share": 0.0, "learning_rate": 1.0}
    run = Run(MAIN, "dev-archer", "pivotal-tuning", fast, TOY.passes)
    assert runner.carry_out(Bench(tmp_path / "out", TOY, {}), run)["drift"] > 0


@pytest.mark.slow
def test_finished_runs_are_skipped_and_other_settings_refused(filled: Path, toy_nano: Path) -> None:
    before = written(filled)
    told: list[str] = []
    fill(filled, TOY, "run", model=str(toy_nano), precision="fp32", tell=told.append)
    assert written(filled) == before and not told
    with pytest.raises(ConfigError, match=r"preset.passes \(60 there, 61 now\)"):
        fill(filled, replace(TOY, passes=61), "run", model=str(toy_nano), precision="fp32", tell=quiet)
    assert written(filled) == before


@pytest.mark.slow
def test_a_run_that_fails_is_a_result_and_stops_nothing(toy_nano: Path, tmp_path: Path) -> None:
    preset = replace(TOY, contestants=("dreambooth", WORDS[1]), passes=30)  # fewer than its pictures of the class take
    told: list[str] = []
    fill(tmp_path / "out", preset, "run", model=str(toy_nano), precision="fp32", tell=told.append)
    found = results_of(tmp_path / "out")
    assert found["dreambooth"]["status"] == FAILED and "passes are too few" in found["dreambooth"]["error"]
    assert found[WORDS[1]]["status"] == "done" and len(told) == 2
    page = write_report(Bench.load(tmp_path / "out")).read_text()
    assert "passes are too few" in page


@pytest.mark.slow
def test_tuning_is_used_by_the_runs(toy_nano: Path, tmp_path: Path) -> None:
    preset = replace(TOY, contestants=("textual-inversion",))
    for stage in ("tune", "run"):
        fill(tmp_path / "out", preset, stage, model=str(toy_nano), precision="fp32", tell=quiet)
    write_report(Bench.load(tmp_path / "out"))
    content = json.loads((tmp_path / "out" / RESULTS).read_text())
    tuned = content["tuning"]["textual-inversion"]
    assert len(tuned["trials"]) == 2 and tuned["chosen"]["settings"] in [one["settings"] for one in tuned["trials"]]
    assert content["missing"] == 0 and content["failed"] == []


@pytest.mark.slow
def test_the_report_holds_everything_in_one_page(filled: Path) -> None:
    bench = Bench.load(filled)
    page = write_report(bench).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 2 * 4 + 5 and not re.search(r"(src|href)=\"(?!data:|#)", page)
    content = json.loads((filled / RESULTS).read_text())
    rows = content["tables"][EQUAL][MAIN]
    assert {row["contestant"] for row in rows} == set(TOY.contestants) - {TRUE, AUTOENCODED, WRONG}
    assert content["metrics"][MAIN].keys() == {TRUE, AUTOENCODED, WRONG}
    words = next(row for row in rows if row["contestant"] == WORDS[1])
    assert all(one is None or one["mean"] == 0 for one in words["leak"].values())  # compared with itself
    table = (filled / TABLE).read_text().splitlines()
    assert len(table) == 2 + len(rows) and all(line.count("|") == table[0].count("|") for line in table)


def test_the_most_memory_is_that_since_the_last_reset() -> None:
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    if before is None:
        pytest.skip("this system does not tell")
    block = torch.ones(32_000_000)  # 128 MB
    during = peak_bytes(cpu)
    assert during is not None and during - before > 0.9 * block.nbytes
    del block
    reset_peak(cpu)
    after = peak_bytes(cpu)
    assert after is not None and after < during - 50_000_000


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    page = write_report(Bench(tmp_path / "out", TOY, {})).read_text(encoding="utf-8")
    assert "Nothing has been run yet" in page
    assert json.loads((tmp_path / "out" / RESULTS).read_text())["missing"] == len(TOY.contestants)


@pytest.mark.slow  # learns on nano
def test_textual_inversion_starts_at_the_phrase_that_is_seen(tmp_path: Path) -> None:
    nano = load(model_dir())
    bench = Bench(tmp_path / "out", TOY, {})
    runner = Runner(nano, Judges.load(judges_dir()))
    seen, inversion = (
        runner.carry_out(bench, Run(MAIN, "dev-half-plie", name, passes=passes))
        for name, passes in (("seen phrase", None), ("textual-inversion-seen", 60))
    )
    assert 0 < seen["passes"] <= 20 and inversion["passes"] == seen["passes"] + 24  # one step of eight, and back
    start = inversion["config"]["start"]
    assert start in ActionSpace.load(model_dir() / SPACE_FILE).phrases


def stub(bench: Bench, run: Run) -> Result:
    content = Result(
        {"version": 1, "status": "done", "error": None, "passes": 0, "seconds": 0.0, "pictures": [{"clean": 1.0}]}
    )
    (bench.path(run) / RESULT).write_text(json.dumps(content))
    return content


@pytest.mark.slow
def test_processes_that_share_a_folder_leave_each_other_their_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "out", TOY, {})
    runs = [Run(MAIN, name, WORDS[1]) for name in ("dev-archer", "dev-hurdle", "dev-gust")]
    theirs, order = lock(bench.path(runs[0])), []

    def carry_out(run: Run) -> Result:
        order.append(run.action)
        return stub(bench, run)

    def finish() -> None:  # the other process, after this one has nothing else to do
        while len(order) < 2:
            time.sleep(0.01)
        stub(bench, runs[0])
        theirs.close()

    other = threading.Thread(target=finish)
    other.start()
    results = bench.fill(lambda found: runs, carry_out, quiet)
    other.join()
    assert order == ["dev-hurdle", "dev-gust"] and len(results) == 3


def test_what_a_process_left_when_it_was_killed_is_run_again(tmp_path: Path) -> None:
    bench, run = Bench(tmp_path / "out", TOY, {}), Run(MAIN, "dev-archer", WORDS[1])
    lock(bench.path(run)).close()
    calls: list[Run] = []

    def carry_out(one: Run) -> Result:
        calls.append(one)
        return stub(bench, one)

    bench.fill(lambda found: [run, run], carry_out, quiet)
    assert calls == [run]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}'])
def test_damaged_results_are_told(content: str, tmp_path: Path) -> None:
    bench, run = Bench(tmp_path / "out", TOY, {}), Run(MAIN, "dev-archer", WORDS[1])
    bench.path(run).mkdir(parents=True)
    (bench.path(run) / RESULT).write_text(content)
    with pytest.raises(DataError, match="delete it to run it again"):
        bench.results()


def test_other_folders_are_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("mine")
    for command in ("tune", "run", "report"):
        result = invoke("bench", command, "--out", str(tmp_path))
        assert result.exit_code == 1 and "holds no bench" in result.stderr
        assert "opening model" not in result.stderr  # that takes seconds
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert "holds no benchmark; run twinact bench run" in refused("bench", "report", "--out", str(tmp_path / "new"))


@pytest.mark.parametrize(
    "wrong", [("--preset", "smok"), ("--cluster", "rey"), ("--task", "unsayd"), ("--method", "t-i")]
)
def test_unknown_names_are_told(wrong: tuple[str, str], toy_nano: Path, tmp_path: Path) -> None:
    command: Sequence[str] = ("bench", "run", "--out", str(tmp_path / "new"), "--model", str(toy_nano), *wrong)
    message = refused(*command, code=2)
    assert repr(wrong[1]) in message and "must be one of" in message and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_commands_tune_run_and_report(toy_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "smoke", replace(TOY, tasks={MAIN: 2}, contestants=("textual-inversion", WORDS[1])))
    out = str(tmp_path / "out")
    how = ("--out", out, "--preset", "smoke", "--model", str(toy_nano))
    assert "next: twinact bench run --preset smoke" in done("bench", "tune", *how).stderr
    assert "next: twinact bench report" in done("bench", "run", *how, "--method", WORDS[1]).stderr
    assert results_of(tmp_path / "out")[WORDS[1]]["status"] == "done"
    table = done("bench", "report", "--out", out).stdout
    assert "| words: the best two (oracle) |" in table
    assert json.loads(done("bench", "report", "--out", out, "--json").stdout)["missing"] > 0


@pytest.mark.slow  # starts a cluster
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:ray", "ignore:.*:FutureWarning:ray")
def test_workers_of_a_ray_cluster_share_the_runs(
    toy_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # which would leave a token in the home folder
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'twinact[cluster]'")
    ray.init(num_cpus=2, num_gpus=0, log_to_driver=False, logging_level="ERROR")
    try:
        fill_on_ray(tmp_path / "out", TOY, "run", model=str(toy_nano.resolve()), precision="fp32")
    finally:
        ray.shutdown()
    assert results_of(tmp_path / "out").keys() == set(TOY.contestants)
