"""Where learning begins, on a real pipeline at the smallest size."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from small import learn
from tiny import tiny_sd
from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.backbones.sd import StableDiffusion
from twinact.configs import LearnConfig, TwinActConfig
from twinact.errors import DataError
from twinact.methods.losses import denoising_loss
from twinact.runs.folder import SEARCH_FILE
from twinact.runs.lock import lock
from twinact.space import ActionSpace
from twinact.training.search_cache import SearchCache
from twinact.training.start import likeliest_phrases

PHRASES = ("jumping", "a robot in the park", "with the dog", "on the moon")
CAPTIONS = ("a robot <act> in the park", "a cat <act>")
CONFIG = LearnConfig(name="leap", steps=2, batch_size=2, method=TwinActConfig(similarity_weight=0.0))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return StableDiffusion(tiny_sd(), "tiny@0")


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(2):
        Image.new("RGB", (32, 32), (80 * index, 200, 40)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(CAPTIONS[index])
    return folder


def space_of(backbone: Backbone, phrases: Sequence[str]) -> ActionSpace:
    return ActionSpace.build(
        backbone.token_tables(), phrases, slots=3, model_id="tiny@0", tokenizer_hash=backbone.tokenizer_hash
    )


def test_the_likeliest_phrase_has_the_lowest_denoising_loss(backbone: Backbone, latents: torch.Tensor) -> None:
    space = space_of(backbone, PHRASES)
    found = likeliest_phrases(backbone, space, latents, CAPTIONS)
    assert {phrase for phrase, _ in found} == set(PHRASES)
    assert [loss for _, loss in found] == sorted(loss for _, loss in found)

    generator = torch.Generator().manual_seed(1)  # the second look: three noises a picture, the same for all phrases
    chosen = torch.tensor([0, 0, 0, 1, 1, 1])
    noise = torch.randn((6, 4, 8, 8), generator=generator)
    noised = backbone.noising.add(latents[chosen], noise, backbone.noising.sample_t(6, generator, 0.8))
    for phrase, loss in found:
        vectors = {PLACEHOLDER: space.reconstruct(space.project_phrase(phrase)[0])}
        prompts = [CAPTIONS[i] for i in chosen.tolist()]
        with torch.no_grad():
            prediction = backbone.predict(noised.x_t, noised.t, backbone.encode_text(prompts, vectors))
        assert loss == pytest.approx(float(denoising_loss(prediction, noised.target, noised.weight)), rel=1e-4)


def test_only_what_the_masks_count_decides(backbone: Backbone, latents: torch.Tensor) -> None:
    """Masks of one value change nothing; others change the losses."""
    space = space_of(backbone, PHRASES)
    plain = likeliest_phrases(backbone, space, latents, CAPTIONS)
    masks = torch.full((2, 1, 8, 8), 0.5)
    same = likeliest_phrases(backbone, space, latents, CAPTIONS, masks=masks)
    assert dict(same) == pytest.approx(dict(plain), rel=1e-4)
    masks[..., 2:] = 0.0
    corner = likeliest_phrases(backbone, space, latents, CAPTIONS, masks=masks)
    assert dict(corner) != pytest.approx(dict(plain), rel=1e-3)


def test_neither_batches_nor_the_order_of_phrases_matter(backbone: Backbone, latents: torch.Tensor) -> None:
    space, turned = space_of(backbone, PHRASES), space_of(backbone, PHRASES[::-1])
    whole = likeliest_phrases(backbone, space, latents, CAPTIONS)
    seen: list[tuple[int, int]] = []
    parts = likeliest_phrases(backbone, turned, latents, CAPTIONS, batch_size=3, progress=lambda *at: seen.append(at))
    assert [phrase for phrase, _ in parts] == [phrase for phrase, _ in whole]
    assert [loss for _, loss in parts] == pytest.approx([loss for _, loss in whole], rel=1e-4)
    assert seen[-1] == (4 * 2 + 4 * 2 * 3, 4 * 2 + 4 * 2 * 3)


def test_a_folder_that_is_not_ours_is_refused_before_the_search(
    backbone: Backbone, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    searched: list[tuple[int, int]] = []
    with pytest.raises(DataError, match="is not empty and holds no run of twinact"):
        learn(
            pictures, CONFIG, tmp_path, backbone=backbone, space=space_of(backbone, PHRASES),
            searching=lambda *at: searched.append(at),
        )  # fmt: skip
    assert not searched
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_twinact_starts_at_the_likeliest_phrase_and_says_so(backbone: Backbone, pictures: Path, tmp_path: Path) -> None:
    space = space_of(backbone, PHRASES)
    searched: list[int] = []

    def run(name: str, config: LearnConfig) -> torch.Tensor:
        result = learn(
            pictures, config, tmp_path / name, backbone=backbone, space=space,
            searching=lambda done, _all: searched.append(done),
        )  # fmt: skip
        assert result.action.coefficients is not None
        return result.action.coefficients

    found = run("found", CONFIG)
    start = json.loads((tmp_path / "found" / "config.json").read_text())["settings"]["start"]
    assert start in PHRASES and searched
    assert torch.equal(run("named", replace(CONFIG, start=start)), found)
    searched.clear()
    assert torch.equal(run("found", CONFIG), found) and not searched


def stop_at(batches: int, seen: list[int]) -> Callable[[int, int], None]:
    def searching(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == batches:
            raise KeyboardInterrupt

    return searching


# 4 phrases with 2 pictures each, then all 4 with 3 noises of each: 32 pictures, in batches of 3.
FIRST, WHOLE = [3, 6, 8], [11, 14, 17, 20, 23, 26, 29, 32]


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(1,), (2, 3, 1), (11,)])
def test_a_stopped_search_goes_on_to_the_same_bits(
    stops: tuple[int, ...], backbone: Backbone, latents: torch.Tensor, tmp_path: Path
) -> None:
    space, path = space_of(backbone, PHRASES), tmp_path / SEARCH_FILE

    def search(progress: Callable[[int, int], None], kept: Path | None = path) -> list[tuple[str, float]]:
        losses = None if kept is None else SearchCache(kept, {"seed": 0})
        return likeliest_phrases(backbone, space, latents, CAPTIONS, batch_size=3, kept=losses, progress=progress)

    whole = search(stop_at(0, []), None)
    seen: list[int] = []
    for batches in stops:
        at: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            search(stop_at(batches, at))
        seen += at
    assert path.is_file() and seen == (FIRST + WHOLE)[: sum(stops)]
    assert search(stop_at(0, seen)) == whole
    assert seen == FIRST + WHOLE  # every batch once
    again: list[int] = []
    assert search(stop_at(0, again)) == whole and not again


def test_a_signal_stops_the_search_after_the_batch(backbone: Backbone, latents: torch.Tensor, tmp_path: Path) -> None:
    kept = SearchCache(tmp_path / SEARCH_FILE, {})
    seen: list[int] = []

    def searching(done: int, total: int) -> None:
        seen.append(done)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="run again to go on"):
        likeliest_phrases(
            backbone, space_of(backbone, PHRASES), latents, CAPTIONS, batch_size=3, kept=kept, progress=searching
        )
    assert seen == [3] and signal.getsignal(signal.SIGTERM) is before
    assert SearchCache(tmp_path / SEARCH_FILE, {}).take(3) is not None


@pytest.mark.slow
def test_learning_goes_on_with_its_search_and_then_drops_it(backbone: Backbone, pictures: Path, tmp_path: Path) -> None:
    space, many, own = space_of(backbone, PHRASES), tmp_path / "many", tmp_path / "pictures"
    shutil.copytree(pictures, own)
    seen: list[int] = []

    def run(name: str, searching: Callable[[int, int], None], captions: str = CAPTIONS[0]) -> torch.Tensor | None:
        (own / "0.txt").write_text(captions)
        result = learn(own, CONFIG, tmp_path / name, backbone=backbone, space=space, searching=searching)
        return result.action.coefficients

    whole = run("whole", stop_at(0, seen))
    assert len(seen) == 2 and not (tmp_path / "whole" / SEARCH_FILE).exists()  # 8 pictures, then 24
    with pytest.raises(KeyboardInterrupt):
        run("many", stop_at(1, begun := []))
    assert begun == [8] and sorted(path.name for path in many.iterdir()) == [".lock", SEARCH_FILE]
    with lock(many), pytest.raises(DataError, match="in use by process"):
        run("many", stop_at(0, []))
    found = run("many", stop_at(0, begun))
    assert found is not None and whole is not None and torch.equal(found, whole)
    assert begun == [8, 32] and not (many / SEARCH_FILE).exists()

    for captions in (CAPTIONS[0], "a robot <act> with the dog"):
        begun = []
        with pytest.raises(KeyboardInterrupt):
            run("other", stop_at(1, begun), captions)
        assert begun == [8]  # what was found for other captions does not count


def test_a_damaged_search_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / SEARCH_FILE
    kept = SearchCache(path, {"captions": ("a", "b")})
    kept.add(torch.tensor([1.0, 2.0]))
    kept.save()
    there = SearchCache(path, {"captions": ("a", "b")})
    assert there.take(3) is None and there.take(2) is not None and there.take(1) is None
    assert SearchCache(path, {"captions": ("a", "c")}).take(1) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert SearchCache(path, {"captions": ("a", "b")}).take(1) is None
