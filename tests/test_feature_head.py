"""A head on the denoiser's features: it reads poses without decoding, is taught, measured, stored, and refused."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from commands import done, refused
from families import CORE, FAMILIES, backbone_of, noisy, times
from small import PHRASES, small_space, vitpose
from tiny import tiny_sd
from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.backbones.facts import ModelFacts
from twinact.backbones.features import middle_block, predict_with_map, up_block
from twinact.backbones.memory import Savings
from twinact.bench.poses import photographed_poses, write_pose_exemplars
from twinact.configs import LearnConfig, TwinActConfig
from twinact.errors import CheckpointError
from twinact.intent import HeadPose, IntendedPose, intended_pose
from twinact.intent.feature_head import FeatureHead, coarse
from twinact.intent.head_training import Lessons, train_head
from twinact.intent.measure import MeasuredIntent, correlation
from twinact.intent.pose_table import plan, pose_table
from twinact.jobs.job import Job
from twinact.jobs.run import run_job
from twinact.readers import FOLDER, LatentActionEncoder
from twinact.readers.body import SEGMENTS
from twinact.readers.latent import EncoderConfig
from twinact.runs.folder import MARKER
from twinact.space import ActionSpace
from twinact.space.action_space import FORMAT_VERSION
from twinact.space.pose_head import PoseHead, joint_count, shapes
from twinact.space.pose_table import PoseTable
from twinact.storage import read_safetensors, write_safetensors

PROMPTS = [f"a robot {PLACEHOLDER}", f"a dog {PLACEHOLDER} in the park"]


def features_of(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        return predict_with_map(backbone, noisy(backbone), times(backbone, 1, 1), backbone.encode_text(PROMPTS))[1]


def head_for(backbone: Backbone, ground: float | None = None) -> PoseHead:
    """One that was taught nothing."""
    features = features_of(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        head = FeatureHead(features.shape[1], SEGMENTS, ground, width=8)
    head.measure(coarse(features))
    return head.stored(backbone.pose_block, 0.95)


def table_for(backbone: Backbone, head: PoseHead | None, steps: int = 2) -> PoseTable:
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(len(PHRASES), len(SEGMENTS), 2, generator=generator), dim=2)
    return replace(PoseTable.of(directions, directions.mean(dim=0), 1), steps=steps, reader="somebody", head=head)


def hooks(backbone: Backbone) -> int:
    return sum(len(module._forward_hooks) for module in backbone.denoiser.modules())


@pytest.fixture
def undecodable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pictures that any family decodes, in here rather than anywhere."""
    decoded: list[str] = []
    for kind in {family.backbone for family in FAMILIES.values()}:
        original = kind.decode_latents

        def decode(self: Backbone, latents: Tensor, original: Any = original) -> Tensor:
            decoded.append(self.model_id)
            return original(self, latents)

        monkeypatch.setattr(kind, "decode_latents", decode)
    return decoded


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_map_of_features(name: str) -> None:
    backbone = backbone_of(name)
    before = hooks(backbone)
    features = features_of(backbone)
    assert features.ndim == 4 and len(features) == 2 and hooks(backbone) == before
    assert features.shape[2:] in [(8, 8), (4, 4)] and float(features[0].std(dim=(1, 2)).mean()) > 0
    x, t, cond = noisy(backbone), times(backbone, 1, 1), backbone.encode_text(PROMPTS)
    with torch.no_grad():
        assert torch.equal(predict_with_map(backbone, x, t, cond)[0], backbone.predict(x, t, cond))
        # What stands at one place of the latents is seen most at this place of the map.
        x[:, :, -2:, :2] += 3
        moved = (predict_with_map(backbone, x, t, cond)[1] - features).square().sum(dim=1)
    rows, columns = features.shape[2:]
    assert int(moved[0].argmax()) in [r * columns + c for r in range(rows // 2, rows) for c in range(columns // 2)]


def test_hooks_are_gone_even_after_an_error() -> None:
    backbone = backbone_of("sd")
    before = hooks(backbone)
    with pytest.raises(Exception, match=r"."):
        predict_with_map(backbone, noisy(backbone)[:, :1], times(backbone, 1, 1), backbone.encode_text(PROMPTS))
    assert hooks(backbone) == before


def test_a_compiled_denoiser_is_asked_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take no notice of hooks that come after its first call."""
    backbone = backbone_of("sd")
    monkeypatch.setattr(backbone.denoiser, "_compiled_call_impl", compiled := object())
    assert features_of(backbone).ndim == 4 and backbone.denoiser._compiled_call_impl is compiled


def test_blocks_are_those_with_enough_cells_and_those_in_the_middle() -> None:
    unet = tiny_sd().unet
    assert up_block(unet, 8) == "up_blocks.0"
    unet.up_blocks.extend(torch.nn.Identity() for _ in range(2))
    assert [up_block(unet, side) for side in (64, 96, 128, 16)] == ["up_blocks.1", "up_blocks.1", "up_blocks.0",
                                                                     "up_blocks.2"]  # fmt: skip
    two = torch.nn.ModuleDict({"a": torch.nn.ModuleList([torch.nn.Identity()] * 2), "b": torch.nn.ModuleList()})
    two["b"].extend(torch.nn.Identity() for _ in range(3))
    assert middle_block(two, "a", "b") == "b.0" and middle_block(two, "a") == "a.1"


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", CORE)
def test_the_gradient_of_a_head_reaches_the_vectors_and_nothing_is_decoded(
    name: str, recompute: bool, undecodable: list[str]
) -> None:
    backbone = backbone_of(name)
    intent = intended_pose(backbone, table_for(backbone, head_for(backbone, ground=0.9)))
    assert isinstance(intent, HeadPose) and isinstance(intent, IntendedPose) and intent.steps == 2
    before, hooked = backbone.passes.forward, hooks(backbone)
    found = []
    for savings in (Savings(), Savings(recompute=recompute)):
        vectors = [torch.full((2, table.width), 0.02, requires_grad=True) for table in backbone.token_tables()]
        with backbone.saving(savings):
            read = intent.read(backbone, backbone.encode_text(PROMPTS, {PLACEHOLDER: vectors}), noisy(backbone))
            read[..., 0].sum().backward()
        found.append([block.grad for block in vectors])
    assert read.shape == (2, len(SEGMENTS) + 1, 2) and backbone.passes.forward == before + 2 * 2 * 2
    torch.testing.assert_close(read.norm(dim=2), torch.ones(2, len(SEGMENTS) + 1))
    assert any(grad is not None and float(grad.abs().max()) > 0 for grad in found[0])
    torch.testing.assert_close(found[0], found[1])
    assert not undecodable and hooks(backbone) == hooked


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_an_action_is_learned_in_a_space_with_a_head(name: str, tmp_path: Path, undecodable: list[str]) -> None:
    backbone = backbone_of(name)
    head = head_for(backbone)
    space = replace(small_space(backbone), poses=table_for(backbone, head))
    space.save(tmp_path / "few.space.safetensors")
    write_pose_exemplars(next(iter(photographed_poses())), tmp_path / "exemplars", 32)
    told: list[str] = []
    job = Job(
        exemplars=tmp_path / "exemplars",
        config=LearnConfig(
            name="leap", method=TwinActConfig(prompts_per_step=2, clauses=1), steps=2, batch_size=2, start="jumping"
        ),
        run_dir=tmp_path / "run",
        space=tmp_path / "few.space.safetensors",
    )
    learned = run_job(job, backbone=backbone, tell=told.append)
    assert any("the space's head reads" in line for line in told) and not undecodable
    assert learned.cost.forward == 8 and learned.cost.backward == 4
    assert learned.action.coefficients is not None
    assert not torch.equal(learned.action.coefficients[0], space.project_phrase("jumping")[0])
    # The run and the action say which head it was.
    begun = MARKER.read(tmp_path / "run")
    assert begun is not None and begun["settings"]["parts"]["head"] == head.hash
    assert learned.action.meta["pose"]["head"] == head.hash


def test_a_head_is_stored_to_the_same_bits_beside_the_poses(tmp_path: Path) -> None:
    backbone = backbone_of("sd")
    head, space = head_for(backbone, ground=0.9), small_space(backbone)
    table = table_for(backbone, head)
    rest = torch.cat([table.rest, table.rest[:1]])
    high = PoseTable.of(torch.cat([table.directions, table.directions[:, :1]], dim=1), rest, 1)
    with_head = replace(space, poses=replace(high, head=head))
    file = with_head.save(tmp_path / "x.space.safetensors")
    loaded = ActionSpace.load(file)
    assert loaded.hash == space.hash and loaded.poses is not None and loaded.poses.head is not None
    found = loaded.poses.head
    assert (found.block, found.segments, found.ground, found.correlation) == (head.block, SEGMENTS, 0.9, 0.95)
    assert found.hash == head.hash and all(torch.equal(found.tensors[n], t) for n, t in head.tensors.items())
    assert loaded.save(tmp_path / "y.space.safetensors").read_bytes() == file.read_bytes()
    noise, cond = noisy(backbone), backbone.encode_text(PROMPTS)
    read = [HeadPose(one, 1).read(backbone, cond, noise) for one in (head, found)]
    assert torch.equal(*read)
    # Without one, nothing of the file is new.
    plain = replace(space, poses=high).save(tmp_path / "z.space.safetensors")
    tensors, header = read_safetensors(plain, "space", FORMAT_VERSION)
    assert "pose_head" not in header and not any(name.startswith("head.") for name in tensors)
    assert ActionSpace.load(plain).poses is not None


@pytest.mark.slow
def test_damaged_heads_are_refused_in_one_line(tmp_path: Path) -> None:
    backbone = backbone_of("sd")
    path = tmp_path / "x.space.safetensors"
    replace(small_space(backbone), poses=table_for(backbone, head_for(backbone))).save(path)
    tensors, header = read_safetensors(path, "space", FORMAT_VERSION)
    entry = header["pose_head"]
    damages: list[tuple[dict[str, Tensor], Any]] = [
        ({name: tensor[:-1]}, entry) for name, tensor in tensors.items() if name.startswith("head.")
    ]
    damages += [({"head.heat.bias": tensors["head.heat.bias"] * torch.nan}, entry)]
    damages += [({"head.heat.bias": tensors["head.heat.bias"].half()}, entry)]
    damages += [({"head.deviation": tensors["head.deviation"] * 0}, entry), ({"head.other": torch.ones(2)}, entry)]
    damages += [({}, {**entry, key: value}) for key, value in (
        ("segments", []), ("segments", [[0]]), ("segments", [[0, -1]] * len(SEGMENTS)), ("ground", 0.5),
        ("segments", [[0, 10**9]] * len(SEGMENTS)), ("segments", "x"), ("block", 3), ("correlation", "high"),
    )]  # fmt: skip
    damages += [({}, 3)]
    for changed, said in damages:
        write_safetensors(path, {**tensors, **changed}, {**header, "pose_head": said})
        with pytest.raises(CheckpointError) as caught:
            ActionSpace.load(path)
        assert "\n" not in str(caught.value)
    for name in (name for name in tensors if name.startswith("head.")):
        write_safetensors(path, {one: tensor for one, tensor in tensors.items() if one != name}, header)
        with pytest.raises(CheckpointError):
            ActionSpace.load(path)


def test_a_head_of_another_model_is_refused() -> None:
    backbone = backbone_of("sd")
    with pytest.raises(CheckpointError, match=r"up_blocks\.0.*layers\.1"):
        intended_pose(backbone_of("z-image"), table_for(backbone, head_for(backbone)))
    wide = FeatureHead(48, SEGMENTS, width=8).stored(backbone.pose_block, 0.9)
    intent = intended_pose(backbone, table_for(backbone, wide))
    assert intent is not None
    with pytest.raises(CheckpointError, match="reads 48 features"):
        intent.read(backbone, backbone.encode_text(PROMPTS), noisy(backbone))


def test_the_tensors_of_a_head_are_those_that_files_hold() -> None:
    head = FeatureHead(12, ((0, 1), (1, 4)), width=16).stored("block", 0.9)
    assert {name: tuple(tensor.shape) for name, tensor in head.tensors.items()} == shapes(12, 16, 5)
    assert joint_count(head.segments) == 5 and (head.channels, head.width) == (12, 16)


def known_lessons(count: int, seed: int = 0) -> tuple[Lessons, list[tuple[int, ...]]]:
    """Features that show two joints as bright cells under noise; every second drawing says a phrase."""
    generator = torch.Generator().manual_seed(seed)
    lessons = Lessons(Showing(), 1)
    said: list[tuple[int, ...]] = []
    for number in range(count):
        places = torch.randint(5, (2, 2), generator=generator)
        places[1] += 3 * (places[0] == places[1]).all()
        features = 0.2 * torch.randn(6, 8, 8, generator=generator)
        for joint, (x, y) in enumerate(places.tolist()):
            features[3 * joint, y, x] += 30.0 * (joint + 1)
        lessons.numbers.append(number)
        lessons.features.append(features.to(torch.bfloat16))
        lessons.directions.append(F.normalize((places[1] - places[0]).float(), dim=0)[None])
        said.append((number % 20,) if number % 2 else ())
    return lessons, said


class Showing:
    """Sees one segment: from the middle towards where the estimate is brightest."""

    segments = ((0, 1),)

    def directions(self, backbone: Backbone, latents: Tensor) -> Tensor:
        gray = latents.mean(dim=1)
        parts = [side.diff(dim=1).sum(dim=1) for side in (gray.mean(dim=1), gray.mean(dim=2))]
        return F.normalize(torch.stack(parts, dim=1)[:, None], dim=2)


@pytest.mark.slow
def test_a_head_learns_what_features_show() -> None:
    backbone = backbone_of("sd")
    lessons, said = known_lessons(160)
    taught = train_head(backbone, lessons, said, steps=80)
    assert taught is not None and taught.held_out == 8 and taught.drawings == 152
    unseen, _ = known_lessons(60, seed=1)
    wanted, mean = torch.stack(unseen.directions), torch.stack(lessons.directions).mean(dim=0)
    with torch.no_grad():
        read = FeatureHead.of(taught.head)(torch.stack(unseen.features))
    assert float((read - wanted).norm(dim=2).mean()) < 0.5 * float((mean - wanted).norm(dim=2).mean())
    assert taught.head.correlation > 0.7 and correlation(read, wanted) > 0.7
    twice = [train_head(backbone, lessons, said, steps=3) for _ in range(2)]
    assert twice[0] is not None and twice[1] is not None and twice[0].head.hash == twice[1].head.hash


def test_what_is_held_out_measures_and_does_not_teach() -> None:
    backbone = backbone_of("sd")
    lessons, _ = known_lessons(40)
    assert train_head(backbone, lessons, [(0,)] * 40, steps=1) is None  # nothing is left to teach
    assert train_head(backbone, lessons, [(0, 1)] * 40, steps=1) is None  # nothing says what is held out alone
    told = [*((i % 2,) for i in range(20)), *([(0, 1)] * 20)]
    taught = train_head(backbone, lessons, told, steps=1)
    assert taught is not None and (taught.drawings, taught.held_out) == (10, 10)
    lessons.directions = [torch.zeros(1, 2) for _ in told]  # nobody was seen
    taught = train_head(backbone, lessons, told, steps=2)
    assert taught is not None and taught.head.correlation == 0


@pytest.mark.slow
def test_lessons_keep_a_sample_that_fits() -> None:
    backbone = backbone_of("sd")
    every, few = Lessons(Showing(), 1), Lessons(Showing(), 1, most_bytes=3 * 2 * features_of(backbone)[0].numel())
    table = pose_table(backbone, every, PHRASES, drawings=2)
    assert torch.equal(table.directions, pose_table(backbone, few, PHRASES, drawings=2).directions)
    drawn = plan(PHRASES, 2, backbone.latent_shape)
    assert every.numbers == list(range(len(drawn.texts))) and len(few.features) == 3 == len(set(few.numbers))
    assert every.features[0].dtype == torch.bfloat16 and max(few.numbers) > 2
    for place, number in enumerate(few.numbers):
        assert torch.equal(few.features[place], every.features[number])
        assert torch.equal(few.directions[place], every.directions[number])
    assert [len(one) for one in drawn.said[:4]] == [0, 0, 1, 1] and len(drawn.said[-1]) == 2


@pytest.mark.slow
def test_a_head_is_taught_by_the_reader_of_a_model_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_sd().save_pretrained(tmp_path / "model")
    segments = ((0, 1), (1, 2))
    LatentActionEncoder(EncoderConfig(4, 3, segments, width=8, deep=8)).save(tmp_path / "model" / FOLDER)
    ModelFacts(intent_steps=2).write(tmp_path / "model")
    (tmp_path / "phrases.txt").write_text("# Body\n" + "\n".join(PHRASES))
    monkeypatch.setattr("twinact.intent.head_training.train_head", partial(train_head, steps=2))
    monkeypatch.setattr("twinact.intent.measure.ENOUGH", -1.0)
    common = ["space", "build", "--model", tmp_path / "model", "--phrases", tmp_path / "phrases.txt", "--slots", "2",
              "--drawings", "4"]  # fmt: skip
    assert "head on the model's features" not in done(*common, "--out", tmp_path / "without").stderr
    assert "it is kept" in done(*common, "--out", tmp_path / "with", "--head").stderr
    without, with_head = (ActionSpace.load(tmp_path / f"{name}.space.safetensors") for name in ("without", "with"))
    assert without.poses is not None and without.poses.head is None and without.hash == with_head.hash
    assert with_head.poses is not None and with_head.poses.head is not None
    assert with_head.poses.head.segments == segments and with_head.poses.steps == 2
    assert torch.equal(with_head.poses.directions, without.poses.directions)


@pytest.mark.slow
def test_building_a_space_keeps_a_head_that_is_good_enough_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_sd().save_pretrained(tmp_path / "model")
    vitpose().save_pretrained(tmp_path / "pose")
    (tmp_path / "phrases.txt").write_text("# Body\n" + "\n".join(PHRASES))
    # An untrained model shows its pose when it likes; what is tested here comes after that.
    monkeypatch.setattr("twinact.intent.measure.measure_intent", lambda *args, **more: MeasuredIntent({1: 0.95}))
    monkeypatch.setattr("twinact.intent.head_training.train_head", partial(train_head, steps=2))
    common = ["space", "build", "--model", tmp_path / "model", "--phrases", tmp_path / "phrases.txt", "--slots", "2",
              "--reader", "vitpose", "--weights", tmp_path / "pose"]  # fmt: skip

    def build(name: str, *more: str) -> tuple[str, PoseHead | None]:
        said = done(*common, "--out", tmp_path / name, *more).stderr
        poses = ActionSpace.load(tmp_path / f"{name}.space.safetensors").poses
        assert poses is not None
        return said, poses.head

    said, head = build("poor", "--drawings", "4")
    assert "it is not kept" in said and "correlation" in said and head is None
    said, head = build("few", "--drawings", "1")
    assert "too few drawings to measure a head" in said and head is None
    said, head = build("without", "--drawings", "4", "--no-head")
    assert "head on" not in said and head is None
    monkeypatch.setattr("twinact.intent.measure.ENOUGH", -1.0)
    said, head = build("good", "--drawings", "4")
    assert "it is kept" in said and head is not None
    assert "head     reads" in done("space", "show", tmp_path / "good.space.safetensors").stdout
    both = ["--head", "--no-poses", "--out", tmp_path / "none"]
    told = refused("space", "build", "--model", tmp_path / "model", *both, code=2)
    assert "--no-poses" in told
