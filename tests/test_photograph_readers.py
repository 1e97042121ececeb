"""Readers of pixels: BlazePose on a real photograph, ViTPose at a tiny size, and the choice among readers."""

import json
import math
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import ExifTags, Image
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
)

from small import vitpose
from tiny import tiny_sd
from twinact.backbones import load
from twinact.data import pictures as pictures_module
from twinact.data.exemplars import read_exemplars
from twinact.errors import ConfigError, DataError, MissingDependency
from twinact.readers import FOLDER
from twinact.readers.blazepose import BlazePoseReader, _Crop, _cut
from twinact.readers.body import JOINTS, SEGMENT_NAMES, SEGMENTS
from twinact.readers.choice import SurestReader, open_reader, read_photographs
from twinact.readers.detections import _anchors, decode
from twinact.readers.drawn import reading_sheet, with_limbs
from twinact.readers.keypoint_files import read_keypoints
from twinact.readers.keypoints import AP_10K, WHOLE_BODY_133
from twinact.readers.latent import EncoderConfig, LatentActionEncoder
from twinact.readers.own import LatentPoseReader
from twinact.readers.reader import PoseReader, PoseReading, Seen
from twinact.readers.vitpose import ViTPoseReader, _crops, _peaks, _window


def _has_blazepose() -> bool:
    try:
        distribution("mediapipe"), distribution("ai-edge-litert")
    except PackageNotFoundError:
        return False
    return True


needs_blazepose = pytest.mark.skipif(not _has_blazepose(), reason="BlazePose is not installed; `make setup` does it")
SHOULDERS = SEGMENT_NAMES.index("line of the shoulders")
THIGHS = [SEGMENT_NAMES.index(f"{side} thigh") for side in ("left", "right")]


@pytest.fixture(scope="module")
def blazepose() -> BlazePoseReader:
    return BlazePoseReader()


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    """Grace Hopper from the waist up, which matplotlib brings along."""
    return Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")


@needs_blazepose
def test_half_a_body_is_read_and_the_other_half_left_out(blazepose: BlazePoseReader, portrait: Image.Image) -> None:
    assert isinstance(blazepose, PoseReader)
    reading = blazepose.read([portrait])
    assert reading.seen[0].person == reading.seen[0].people == 1
    assert float(reading.weights[0, SHOULDERS]) > 0.9 and float(reading.weights[0, THIGHS].max()) == 0.0
    assert float(reading.directions[0, SHOULDERS, 0]) > 0.95  # she faces us, so her left shoulder is at our right
    assert "left thigh" in reading.seen[0].remarks[0] and "not seen" in reading.seen[0].remarks[0]
    assert reading.joints is not None
    left, top, right, bottom = reading.boxes[0].tolist()
    assert -0.02 <= left < right <= 1.02 and -0.02 <= top < bottom <= 1.02


@needs_blazepose
@pytest.mark.parametrize("turn", [90, 180])
def test_somebody_who_is_turned_is_read_alike(turn: int, blazepose: BlazePoseReader, portrait: Image.Image) -> None:
    upright = blazepose.read([portrait]).directions[0, SHOULDERS]
    turned = blazepose.read([portrait.rotate(turn, expand=True)]).directions[0, SHOULDERS]
    angle = math.radians(-turn)  # Pillow turns against the clock, and y points down
    matrix = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    assert float(turned @ (matrix @ upright)) > 0.98


@pytest.mark.slow
@needs_blazepose
def test_people_are_found_anywhere_and_chosen_by_size(portrait: Image.Image) -> None:
    page = Image.new("RGB", (900, 600), "grey")
    page.paste(portrait.resize((410, 480)), (470, 120))
    page.paste(portrait.resize((290, 340)), (60, 260))
    readings = [BlazePoseReader(person).read([page]) for person in (1, 2)]
    assert [one.seen[0].person for one in readings] == [1, 2]
    first, second = (float(one.boxes[0, 0] + one.boxes[0, 2]) / 2 for one in readings)
    assert first == pytest.approx(675 / 900, abs=0.05) and second == pytest.approx(205 / 900, abs=0.05)


@pytest.mark.slow
@needs_blazepose
def test_somebody_small_is_found_and_told(blazepose: BlazePoseReader, portrait: Image.Image) -> None:
    page = Image.new("RGB", (1600, 1600), "grey")
    page.paste(portrait.resize((190, 220)), (1200, 1300))
    reading = blazepose.read([page])
    assert reading.seen[0].people == 1 and "small" in reading.seen[0].remarks[-1]
    assert float(reading.boxes[0, 0]) > 0.7 and float(reading.boxes[0, 1]) > 0.7


@needs_blazepose
def test_nobody_is_nobody(blazepose: BlazePoseReader) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    reading = blazepose.read([Image.fromarray(noise), Image.new("L", (40, 300), 200)])
    assert [one.person for one in reading.seen] == [0, 0] and float(reading.weights.max()) == 0.0
    assert reading.seen[0].remarks == ("nobody was found",)
    assert blazepose.read([]).directions.shape == (0, len(SEGMENTS), 2)


def test_a_crop_maps_back_to_the_picture() -> None:
    pixels = np.zeros((300, 500, 3), np.uint8)
    pixels[198:203, 348:353] = 255
    square, to_picture = _cut(pixels, _Crop(340.0, 190.0, 150.0, math.radians(70)), 256)
    rows, columns = np.nonzero(square[..., 0] > 128)
    x, y = to_picture @ (columns.mean(), rows.mean(), 1.0)
    assert abs(x - 350) < 1 and abs(y - 200) < 1


def test_detections_are_decoded_and_doubles_left_out() -> None:
    boxes, logits = np.zeros((2254, 12), np.float32), np.full(2254, -9.0, np.float32)
    assert (
        _anchors().shape == (2254, 2) and _anchors()[0].tolist() == [4.0, 4.0] and _anchors()[-1].tolist() == [208, 208]
    )
    boxes[[0, 2, 1600], 2:4] = 40.0
    boxes[0, 4:8] = 1.0, 2.0, 3.0, -20.0
    logits[[0, 2, 1600]] = 3.0, 2.0, 1.0
    found = decode(boxes, logits)
    assert [round(one.score, 2) for one in found] == [0.95, 0.73]  # number 2 lies beside number 0
    assert found[0].box == (-16.0, -16.0, 24.0, 24.0) and found[0].centre == (5.0, 6.0) and found[0].rim == (7.0, -16.0)
    moved = found[0].mapped(np.array([[2.0, 0, 10], [0, 2.0, 20]]))
    assert moved.box == (-22.0, -12.0, 58.0, 68.0) and moved.centre == (20.0, 32.0)


def test_what_is_not_installed_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("twinact.readers.blazepose.distribution", absent)
    with pytest.raises(
        MissingDependency, match=r"pip install --no-deps mediapipe==0\.10\.21 && pip install ai-edge-litert"
    ):
        open_reader("blazepose")
    with pytest.raises(MissingDependency):
        open_reader("auto")


def detector(labels: dict[int, str]) -> RTDetrForObjectDetection:
    body = RTDetrResNetConfig(embedding_size=4, hidden_sizes=[4, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic",
                              out_features=["stage2", "stage3", "stage4"])  # fmt: skip
    config = RTDetrConfig(
        backbone_config=body, encoder_hidden_dim=8, encoder_in_channels=[8, 8, 8], encoder_layers=1, encoder_ffn_dim=8,
        encoder_attention_heads=2, decoder_in_channels=[8, 8, 8], d_model=8, decoder_layers=1, decoder_ffn_dim=8,
        decoder_attention_heads=2, num_queries=5, num_denoising=0, id2label=labels, hidden_expansion=1.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RTDetrForObjectDetection(config)


def test_vitpose_reads_by_the_contract_and_opens_from_folders(tmp_path: Path) -> None:
    vitpose().save_pretrained(tmp_path / "pose")
    detector({0: "person", 1: "dog"}).save_pretrained(tmp_path / "boxes")
    reader = ViTPoseReader.open(tmp_path / "pose", tmp_path / "boxes")
    assert isinstance(reader, PoseReader)
    noise = np.random.default_rng(0).integers(0, 255, (90, 150, 3), dtype=np.uint8)
    pictures = [Image.fromarray(noise), Image.new("L", (50, 70), 128)]
    reading = reader.read(pictures)
    assert reading.directions.shape == (2, len(SEGMENTS), 2) and len(reading.seen) == 2
    assert bool(((reading.weights >= 0) & (reading.weights <= 1)).all())
    alone = reader.read(pictures[1:])
    torch.testing.assert_close(alone.directions, reading.directions[1:])


def test_a_detector_that_sees_nobody_leaves_the_whole_picture() -> None:
    picture = Image.new("RGB", (60, 80), "teal")
    boxes = detector({0: "person"})
    with torch.no_grad():
        for layer in boxes.model.decoder.class_embed:
            layer.bias.fill_(-9.0)
    assert ViTPoseReader(vitpose(), boxes)._boxes(picture).tolist() == [[0.0, 0.0, 1.0, 1.0]]
    with torch.no_grad():
        for layer in boxes.model.decoder.class_embed:
            layer.bias.fill_(9.0)
    found = ViTPoseReader(vitpose(), boxes)._boxes(picture)
    assert found.shape == (5, 4) and bool((found[:, 2:] >= found[:, :2]).all())


@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.4, 0.3, 0.9, 0.95)])
def test_a_peak_in_a_crop_is_where_it_is_in_the_picture(box: tuple[float, ...]) -> None:
    pixels = torch.full((1, 3, 400, 600), -1.0)
    pixels[:, :, 240:248, 360:368] = 1.0
    middle, reach = _window(torch.tensor([box]), 1.5, 0.75)
    crop = _crops(pixels, middle, reach, (64, 48))
    assert float(crop.min()) >= 0.0 and float(crop.max()) > 0.1
    places, sure = _peaks(crop[:, :1])
    found = middle + (2 * places[:, 0] - 1) * reach
    torch.testing.assert_close(found, torch.tensor([[364 / 600, 244 / 400]]), atol=0.01, rtol=0)
    assert sure.shape == (1, 1)


def test_keypoints_can_be_differentiated_in_the_pixels() -> None:
    reader = ViTPoseReader(vitpose())
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).requires_grad_(True)
    places, sure = reader.keypoints(pixels)
    assert places.shape == (2, 17, 2) and sure.shape == (2, 17)
    reader.read_pixels(pixels).directions[..., 0].sum().backward()
    assert pixels.grad is not None and bool(pixels.grad.isfinite().all()) and float(pixels.grad.abs().max()) > 0


def test_experts_and_heads_choose_the_keypoints() -> None:
    assert ViTPoseReader(vitpose(), expert=3).kind is AP_10K
    assert ViTPoseReader(vitpose(133), expert=5).kind is WHOLE_BODY_133
    picture = torch.zeros(1, 3, 64, 48)
    people, animals = (ViTPoseReader(vitpose(), expert=expert).keypoints(picture)[1] for expert in (0, 3))
    assert not torch.equal(people, animals)
    with pytest.raises(ConfigError, match="this model has 0 to 0"):
        ViTPoseReader(vitpose(experts=1), expert=3)
    with pytest.raises(ConfigError, match="finds 5 keypoints"):
        ViTPoseReader(vitpose(5))


def test_a_folder_that_is_no_vitpose_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"VitPoseForPoseEstimation .* cannot be opened"):
        open_reader("vitpose", weights=str(tmp_path))


@pytest.fixture(scope="module")
def drawn_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with a reader of its own that reads our body."""
    folder = tmp_path_factory.mktemp("models") / "drawn"
    tiny_sd().save_pretrained(folder)
    _encoder().save(folder / FOLDER)
    return folder


def _encoder(sharpness: float = 1.0) -> LatentActionEncoder:
    """An untrained network; the sharper its maps, the surer the reader."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(sharpness))
        encoder = LatentActionEncoder(EncoderConfig(4, len(JOINTS), SEGMENTS, width=8, deep=8))
    with torch.no_grad():
        encoder.heat.weight.mul_(sharpness)
    return encoder


@pytest.mark.parametrize(("own", "other", "reads"), [(1e4, 2e4, "own"), (0.0, 1e4, "other"), (0.0, 1.0, "other")])
def test_the_surer_reader_reads(own: float, other: float, reads: str, drawn_model: Path) -> None:
    backbone = load(drawn_model)
    first, second = (LatentPoseReader(_encoder(sharpness), backbone) for sharpness in (own, other))
    noise = np.random.default_rng(0).integers(0, 255, (2, 40, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in noise]
    reading = SurestReader(first, second).read(pictures)
    torch.testing.assert_close(reading.directions, (first if reads == "own" else second).read(pictures).directions)
    assert len(reading.seen) == 2 and reading.joints is not None


def test_own_readers_are_found_in_the_models_folder(toy_nano: Path, drawn_model: Path) -> None:
    with pytest.raises(ConfigError, match="reader 'own' needs a model that has one"):
        open_reader("own", load(toy_nano))  # its reader reads another body
    reading = open_reader("own", load(drawn_model)).read([Image.new("RGB", (40, 60), "teal")])
    assert reading.seen == (Seen("own", 1, 1, ("unlike what the model draws, so this may be wrong",)),)
    with pytest.raises(ConfigError, match="must be one of auto, blazepose, vitpose, own"):
        open_reader("openpose")


@pytest.mark.slow
def test_keypoint_files_come_before_readers_of_pixels(drawn_model: Path, tmp_path: Path) -> None:
    backbone = load(drawn_model)
    pictures = [Image.new("RGB", (32 + i, 64)) for i in range(3)]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    numbers = [value for i in range(25) for value in (10.0 + i, 20.0 + 7 * (i % 5), 1.0)]
    (tmp_path / "1_keypoints.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": numbers}]}))
    reading = read_photographs(pictures, paths, "auto", backbone)
    assert [one.reader == "keypoints" for one in reading.seen] == [False, True, False]
    torch.testing.assert_close(
        reading.weights[1], read_keypoints([tmp_path / "1_keypoints.json"], [(33, 64)]).weights[0]
    )
    with pytest.raises(DataError, match=r"no keypoint file for 0\.png, 2\.png"):
        read_photographs(pictures, paths, "keypoints")
    assert [one.reader for one in read_photographs(pictures, paths, "own", backbone).seen] == ["own"] * 3


def test_a_table_serves_the_pictures_without_files(tmp_path: Path) -> None:
    points = [value for i in range(17) for value in (100.0 + i, 200.0 + 7 * (i % 5), 1.0)]
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    results = [{"image_id": i, "keypoints": points} for i in (1, 2)]
    (tmp_path / "table.json").write_text(json.dumps(results))
    pictures = [Image.new("RGB", (300, 300))] * 2
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    reading = read_photographs(pictures, paths, "keypoints")
    assert [one.people for one in reading.seen] == [1, 1]


def test_keypoints_lie_in_the_pixels_of_a_file_that_is_read_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # as it lies in the file, 400 wide and 300 high; upright, 300 wide
    Image.new("RGB", (400, 300)).save(tmp_path / "1.jpg", exif=exif)
    numbers = [value for i in range(25) for value in (100.0 + i, 200.0 + 7 * (i % 5), 1.0)]
    (tmp_path / "1_keypoints.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": numbers}]}))
    wanted = read_keypoints([tmp_path / "1_keypoints.json"], [(300, 400)])
    monkeypatch.setattr(pictures_module, "MAX_PIXELS", 400 * 300 - 1)
    (photograph,) = read_exemplars(tmp_path).images
    assert photograph.size == (150, 200)
    reading = read_photographs([photograph], [tmp_path / "1.jpg"])
    assert reading.joints is not None and wanted.joints is not None
    torch.testing.assert_close(reading.joints, wanted.joints, equal_nan=True)
    torch.testing.assert_close(reading.boxes, wanted.boxes)


def test_limbs_are_drawn_where_they_were_read() -> None:
    joints = torch.full((1, len(JOINTS), 2), torch.nan)
    joints[0, JOINTS.index("l_shoulder")] = torch.tensor([0.25, 0.5])
    joints[0, JOINTS.index("l_elbow")] = torch.tensor([0.75, 0.5])
    weights = torch.zeros(1, len(SEGMENTS))
    thick, thin = [], []
    for weight, colours in ((0.9, thick), (0.2, thin)):
        weights[0, SEGMENT_NAMES.index("left upper arm")] = weight
        reading = PoseReading(torch.zeros(1, len(SEGMENTS), 2), weights, torch.zeros(1, 4), joints)
        drawn = with_limbs(Image.new("RGB", (400, 200), "white"), reading, 0, 320)
        assert drawn.size == (320, 160) and drawn.getpixel((160, 80)) == (255, 159, 28)
        assert drawn.getpixel((60, 80)) == (255, 255, 255)
        colours += [drawn.getpixel((160, y)) for y in range(160)]
    assert thick.count((255, 159, 28)) > 2 * thin.count((255, 159, 28)) > 0
    sheet = reading_sheet([Image.new("RGB", (400, 200))], reading, 100)
    assert sheet.size == (100, 100)
