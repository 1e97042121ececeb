"""Exemplars of any shape: which shape each is learned in, whose turn it is, and that a run goes on to the same bits."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from families import CORE, backbone_of
from small import INVERSION
from twinact.backbones import load
from twinact.backbones.facts import ModelFacts
from twinact.backbones.sd import StableDiffusion
from twinact.backbones.shipped import model_dir
from twinact.configs import METHODS, LearnConfig
from twinact.data.exemplars import Exemplars, read_exemplars
from twinact.data.shapes import shape_for, side_multiple
from twinact.errors import ConfigError
from twinact.jobs.job import Job
from twinact.jobs.run import run_job
from twinact.methods import make_method
from twinact.methods.batches import draw_batch, latent_masks
from twinact.runs.folder import settings_of
from twinact.training.loop import encode_exemplars, train
from twinact.training.start import likeliest_phrases

# Of pictures, and of what they are learned in where a square has 32 pixels a side and sides are multiples of 16.
SIZES = {"a": (100, 33), "b": (40, 40), "c": (33, 100), "d": (96, 32), "e": (64, 66)}
SHAPES = ((48, 16), (32, 32), (16, 48), (48, 16), (32, 32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exemplars")
    for number, (name, size) in enumerate(SIZES.items()):
        Image.new("RGB", size, (50 * number, 200 - 40 * number, 40)).save(folder / f"{name}.png")
    mask = Image.new("L", SIZES["a"])
    mask.paste(255, (0, 0, 50, 33))
    mask.save(folder / "a.mask.png")
    return folder


@pytest.fixture(scope="module")
def exemplars(folder: Path) -> Exemplars:
    return read_exemplars(folder).fitted(32, 16)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1000, 1000), (1024, 1024)), ((1010, 1000), (1024, 1024)), ((4000, 3000), (1152, 896)),
        ((3000, 4000), (896, 1152)), ((1920, 1080), (1344, 768)), ((1080, 1920), (768, 1344)),
        ((2000, 1000), (1408, 704)), ((9000, 100), (2048, 512)), ((100, 9000), (512, 2048)),
    ],
)  # fmt: skip
def test_shapes_are_those_of_sdxl(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """The shapes that its report lists (arXiv:2307.01952, appendix I) for pictures of these proportions."""
    assert shape_for(size, 1024, 64) == expected


@pytest.mark.parametrize(("side", "multiple"), [(512, 64), (1024, 64), (1024, 16), (768, 64), (32, 16)])
def test_shapes_have_about_as_many_pixels_as_the_square(side: int, multiple: int) -> None:
    shapes = {shape_for((100 + 7 * i, 800 - 7 * i), side, multiple) for i in range(100)}
    assert len(shapes) > 2 and (side, side) in shapes
    for width, height in shapes:
        assert width % multiple == height % multiple == 0
        assert 0.7 * side**2 <= width * height <= side**2
        assert max(width, height) <= 2 * side
        assert shape_for((width, height), side, multiple) == (width, height)
        assert (height, width) in shapes or (width, height) in {shape_for((w, h), side, multiple) for h, w in shapes}


@pytest.mark.slow_but("sd")
@pytest.mark.parametrize("name", CORE)
def test_every_family_predicts_and_decodes_in_such_shapes(name: str, exemplars: Exemplars) -> None:
    backbone = backbone_of(name)
    assert side_multiple(backbone) == 16
    latents = encode_exemplars(backbone, exemplars)
    assert isinstance(latents, tuple)
    for own, (width, height) in zip(latents, SHAPES, strict=True):
        t = backbone.noising.sample_t(1, torch.Generator())
        assert backbone.predict(own[None], t, backbone.encode_text(["a cat"])).shape == own[None].shape
        assert backbone.decode_latents(own[None]).shape == (1, 3, height, width)


def test_a_unet_is_told_the_size_of_the_picture() -> None:
    """As the stock pipeline tells it when it draws that size."""
    backbone, seen = backbone_of("sdxl"), []
    handle = backbone.denoiser.register_forward_pre_hook(
        lambda module, args, options: seen.append(options["added_cond_kwargs"]["time_ids"][0].tolist()),
        with_kwargs=True,
    )
    try:
        noise, t = torch.zeros(1, 4, 4, 12), backbone.noising.sample_t(1, torch.Generator())
        backbone.predict(noise, t, backbone.encode_text(["a cat"]))
        stock = backbone.pipeline()
        stock.set_progress_bar_config(disable=True)
        stock("a cat", width=48, height=16, num_inference_steps=1, guidance_scale=1.0)
    finally:
        handle.remove()
    assert seen == [[16, 48, 0, 0, 16, 48]] * 2


def test_pictures_and_masks_are_fitted_alike_and_whole(exemplars: Exemplars) -> None:
    assert exemplars.shapes == SHAPES and exemplars.size == 32
    mask = exemplars.masks[0]
    assert mask is not None and mask.size == (48, 16)
    pixels = exemplars.mask_pixels
    assert isinstance(pixels, tuple) and [tuple(one.shape[1:]) for one in pixels] == [(h, w) for w, h in SHAPES]
    assert float(pixels[0][0, :, :22].min()) == 1.0 and float(pixels[0][0, :, 26:].max()) == 0.0
    assert all(float(one.min()) == 1.0 for one in pixels[1:])


def test_steps_have_one_shape_and_every_picture_has_its_share(exemplars: Exemplars) -> None:
    backbone = backbone_of("sd")
    latents = encode_exemplars(backbone, exemplars)
    masks = latent_masks(exemplars, latents)
    config = replace(INVERSION, batch_size=2, steps=50)
    seen: Counter[int] = Counter()
    shapes: list[tuple[int, ...]] = []
    for step in range(50):
        batch = draw_batch(backbone, latents, exemplars.captions, config, step, masks)
        assert batch.numbers is not None and batch.mask is not None
        numbers = batch.numbers.tolist()
        assert len({SHAPES[number] for number in numbers}) == 1
        for number, latent, mask in zip(numbers, batch.latents, batch.mask, strict=True):
            assert torch.equal(latent, latents[number])
            assert float(mask.mean()) == pytest.approx(0.5 if number == 0 else 1.0, abs=0.06)
        assert batch.partners.shape == batch.noise.shape == batch.latents.shape
        seen.update(numbers)
        shapes.append(tuple(batch.latents.shape))
        again = draw_batch(backbone, latents, exemplars.captions, config, step, masks)
        assert torch.equal(again.noise, batch.noise) and torch.equal(again.latents, batch.latents)
    assert set(seen.values()) == {20}
    assert len(set(shapes[:5])) == 3 and shapes[:5] != shapes[5:10]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["twinact", "textual-inversion", "conceptprism", "adi"])
def test_a_run_goes_on_to_the_same_bits(method: str, exemplars: Exemplars, space: object, tmp_path: Path) -> None:
    backbone = backbone_of("sd")
    config = LearnConfig(name="leap", method=METHODS[method](), steps=6, batch_size=2, start="jumping")
    config = replace(config, method=config.method.settled(False))
    if not config.method.takes_space:
        space = None

    def learned(name: str, stop_at: int | None = None) -> bytes:
        def stop(record: object) -> None:
            if getattr(record, "step") == stop_at:  # noqa: B009 - of any record
                raise KeyboardInterrupt

        made = make_method(config, backbone, space)  # type: ignore[arg-type]
        return train(made, backbone, exemplars, config, tmp_path / name, stop).action_path.read_bytes()

    whole = learned("whole")
    with pytest.raises(KeyboardInterrupt):
        learned("pieces", 3)
    assert learned("pieces") == whole


@pytest.mark.slow
def test_the_search_looks_at_pictures_of_all_shapes(exemplars: Exemplars) -> None:
    from small import small_space

    backbone = backbone_of("sd")
    space, latents = small_space(backbone), encode_exemplars(backbone, exemplars)
    masks, seen = latent_masks(exemplars, latents), []
    found = likeliest_phrases(
        backbone, space, latents, exemplars.captions, masks=masks, progress=lambda *at: seen.append(at)
    )
    assert {phrase for phrase, _ in found} == set(space.phrases)
    assert seen[-1][0] == seen[-1][1]
    again = likeliest_phrases(backbone, space, latents, exemplars.captions, masks=masks, batch_size=3)
    assert dict(again) == pytest.approx(dict(found), rel=1e-4)


@pytest.mark.slow
def test_a_job_learns_pictures_as_people_make_them_and_squares_where_the_model_asks(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    run = {"precision": "fp32", "memory": "normal", "preview_every": 0}
    config = replace(INVERSION, steps=2, batch_size=2)
    job = Job(exemplars=folder, config=config, run_dir=tmp_path / "run", model=str(model), run=run)
    told: list[str] = []
    run_job(job, tell=told.append)
    assert [line for line in told if "shapes" in line] == [
        "pictures are learned in their own shapes, each step in one: 48 × 16 (2), 32 × 32 (2), 16 × 48 (1)"
    ]
    assert run_job(job, tell=told.append).already_done
    begun = settings_of(tmp_path / "run")
    assert begun is not None and [tuple(shape) for shape in begun["shapes"]] == list(SHAPES)

    backbone = load(model, "cpu")
    backbone.square = True
    told.clear()
    run_job(replace(job, run_dir=tmp_path / "squares"), backbone=backbone, tell=told.append)
    assert not [line for line in told if "shapes" in line]
    assert "shapes" not in (settings_of(tmp_path / "squares") or {})
    with pytest.raises(ConfigError, match="other settings: shapes"):
        run_job(job, backbone=backbone)


def test_nano_draws_squares_and_says_so_itself(model: Path) -> None:
    assert ModelFacts.read(model_dir()).square is True
    assert ModelFacts.read(model).square is None and StableDiffusion.square is False
