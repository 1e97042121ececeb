"""Finds where learning begins: the phrases whose pose is that of the exemplars, or under which they are likeliest."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.backbones.memory import PRESETS, autocast, explain_out_of_memory
from twinact.backbones.text import silence_cut_warnings
from twinact.configs import LearnConfig, RunConfig, TwinActConfig
from twinact.data.exemplars import Exemplars
from twinact.data.shapes import Together, by_shape
from twinact.intent import Meant, PoseTarget
from twinact.methods.batches import latent_masks
from twinact.methods.losses import denoising_errors
from twinact.runs.folder import SEARCH_FILE
from twinact.runs.lock import lock
from twinact.space import ActionSpace
from twinact.training.gradients import LossScale, memory_advice
from twinact.training.refine import chords_in_step
from twinact.training.search_cache import SearchCache
from twinact.training.stopping import stop_between_steps

# Pictures that the denoiser sees at once; without gradients, so more than a step has.
_AT_ONCE = {"low": 4, "normal": 32, "fast": 32}
_FIRST_PICTURES, _SECOND_NOISES, _SHORTLIST = 2, 3, 16
# Poses are decided at high noise; at low noise all actions explain a picture alike.
_NOISE_BIAS = 0.8

_CANDIDATES, _PROMPTS = 30, 2
# Without steps the words are all there is: more of them that are near are worth more than a second look at each.
_INSTANT_CANDIDATES, _INSTANT_PROMPTS = 20, 1
# What another clause must gain: longer words are harder to adjust and to read.
_CLAUSE_COST = 0.001
# Words that look alike may learn to mean different poses: so many of them, unlike each other, are learned from for so
# many steps, and the mean distance of the last few decides.
_TRIED, _TRIAL_STEPS, _TRIAL_MEAN = 6, 8, 3
_TRIAL_PASSES = _TRIAL_STEPS * _PROMPTS


@dataclass(frozen=True)
class PosedStart:
    """Phrases that look like the exemplars' pose.

    Attributes:
        phrases: One or more, to be joined by "and".
        distance: From the exemplars' pose, as in `PoseTarget.distance`.
        passes: Pictures that the denoiser saw for it; a backward pass counts as two.
    """

    phrases: tuple[str, ...]
    distance: float
    passes: int


def search_passes(space: ActionSpace, pictures: int) -> int:
    """Pictures that the denoiser sees while `likeliest_phrases` looks at so many exemplars."""
    shortest = min(_SHORTLIST, len(space.phrases))
    return len(space.phrases) * min(_FIRST_PICTURES, pictures) + shortest * pictures * _SECOND_NOISES


def posed_search_passes(space: ActionSpace, config: LearnConfig) -> int:
    """Pictures that the denoiser sees at most in `posed_start`; a backward pass counts as two."""
    assert isinstance(config.method, TwinActConfig)
    early = 1 if space.poses is None else space.poses.steps
    count, prompts, tries = _effort(config.steps)
    return count * prompts * config.method.clauses * early + tries * _TRIAL_PASSES * (early + 2)


def _effort(steps: int) -> tuple[int, int, int]:
    """Candidates with equally many clauses, prompts for each, and how many are tried, for a run of so many steps."""
    if not steps:
        return _INSTANT_CANDIDATES, _INSTANT_PROMPTS, 0
    return _CANDIDATES, _PROMPTS, _TRIED if steps > _TRIAL_STEPS else 0


def posed_start(
    backbone: Backbone,
    space: ActionSpace,
    target: PoseTarget,
    config: LearnConfig,
    run: RunConfig,
    progress: Callable[[int, int], None] | None = None,
) -> PosedStart:
    """The phrases of a space from which the exemplars' pose is learned best.

    The pose table says which are likely. The model is asked what it means by these, and the nearest is taken where few
    steps follow or none; else a few of the nearest, which share at most one phrase, are learned from for some steps.

    Args:
        backbone: The model.
        space: With a pose table.
        target: The exemplars' pose.
        config: Of TwinAct.
        run: Precision and memory.
        progress: Called with the passes done, and in all.

    Raises:
        OutOfMemory: It does not fit into memory.
    """
    assert space.poses is not None and isinstance(config.method, TwinActConfig)
    count, prompts, tries = _effort(config.steps)
    likely = space.poses.nearest(target.directions, target.weights, config.method.clauses, count)
    candidates = [numbers for numbers, _ in likely]
    looks, trial = len(candidates) * prompts, 3 * _TRIAL_PASSES
    whole = looks + tries * trial

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, whole)

    own, before = space.to(backbone.device), backbone.passes.forward
    advice = explain_out_of_memory("looking for the starting phrase", memory_advice(run.memory))
    savings = replace(PRESETS[run.memory], compile=False)
    with advice, backbone.saving(savings), autocast(backbone.device, run.precision):
        meant = Meant(backbone, own, target.intent, prompts=prompts, at_once=_AT_ONCE[run.memory])
        points = [(own.phrase_coefficients[[*one]], own.phrase_mask[[*one]]) for one in candidates]
        chords = target.chords_of(meant(points, tell))
        excess, distance = target.excess(chords).mean(dim=1).tolist(), target.distance(chords).mean(dim=1).tolist()
        order = sorted(range(len(candidates)), key=lambda i: excess[i] + _CLAUSE_COST * len(candidates[i]))
        tried: list[int] = []
        for i in order:
            if len(tried) < tries and all(len({*candidates[i]} & {*candidates[j]}) < 2 for j in tried):
                tried.append(i)
        reached = []
        for number, i in enumerate(tried, start=1):
            reached.append(_reached(backbone, own, target, candidates[i], config, LossScale.of(run.precision).value))
            tell(looks + number * trial if number < len(tried) else whole)
    best = tried[min(range(len(tried)), key=lambda k: reached[k])] if tried else order[0]
    phrases = tuple(space.phrases[i] for i in candidates[best])
    passes = backbone.passes.forward - before + 2 * len(tried) * _TRIAL_PASSES
    return PosedStart(phrases, distance[best], passes)


def _reached(
    backbone: Backbone,
    space: ActionSpace,
    target: PoseTarget,
    candidate: tuple[int, ...],
    config: LearnConfig,
    scale: float,
) -> float:
    """The excess over the exemplars' pose after a few steps of learning from a candidate; infinite if it diverges."""
    which = list(candidate)
    assert isinstance(config.method, TwinActConfig)
    leading, trailing = space.phrase_coefficients[which].tensor_split([config.method.rank or space.rank], dim=2)
    leading = leading.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([leading], lr=config.rate, betas=(0.9, 0.99))
    steps = []
    for step in range(_TRIAL_STEPS):
        point = torch.cat([leading, trailing], dim=2), space.phrase_mask[which]
        excess = target.excess(chords_in_step(backbone, space, target, point, _PROMPTS, step)).mean()
        optimizer.zero_grad()
        (scale * excess).backward()  # which changes nothing else: Adam's steps do not depend on it
        optimizer.step()
        steps.append(float(excess.detach()))
    reached = sum(steps[-_TRIAL_MEAN:]) / _TRIAL_MEAN
    return reached if math.isfinite(reached) else math.inf


def starting_phrase(
    backbone: Backbone,
    space: ActionSpace,
    exemplars: Exemplars,
    latents: Together,
    run_dir: str | Path,
    run: RunConfig,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, int]:
    """The phrase of a space that suits the exemplars of a run best, by `likeliest_phrases`, and what finding it took.

    The search takes the run folder for itself. What it has found lies there in `SEARCH_FILE`, until the run begins: a
    search that was stopped goes on, to the same bits.

    Args:
        backbone, space, exemplars: Those of the run.
        latents: Latents of the exemplars; see `twinact.training.loop.encode_exemplars`.
        run_dir: Its folder, in which no run has begun.
        run: How to carry it out.
        progress: As in `likeliest_phrases`.

    Returns:
        The phrase, and the pictures that the denoiser saw for it, in earlier calls too.

    Raises:
        DataError: `run_dir` is in use or cannot be written.
        OutOfMemory: It does not fit into memory.
        KeyboardInterrupt: Stopped; what was found so far is kept.
    """
    told = explain_out_of_memory("looking for the starting phrase", memory_advice(run.memory))
    with told, silence_cut_warnings():  # captions that are cut have been told of
        savings = replace(PRESETS[run.memory], compile=False)  # hardly longer than compiling takes
        batch_size = _AT_ONCE[run.memory]
        decisive = {
            "model": backbone.model_id,
            "space": space.hash,
            "exemplars": exemplars.hashes,
            "captions": exemplars.captions,
            "shapes": exemplars.shapes,
            "precision": run.precision,
            "weights": str(backbone.dtype),
            "batch_size": batch_size,  # sums of other batches are rounded otherwise
        }
        with lock(Path(run_dir)), backbone.saving(savings), autocast(backbone.device, run.precision):
            kept = SearchCache(Path(run_dir) / SEARCH_FILE, decisive)
            found = likeliest_phrases(
                backbone,
                space,
                latents,
                exemplars.captions,
                masks=latent_masks(exemplars, latents),
                batch_size=batch_size,
                kept=kept,
                progress=progress,
            )
    return found[0][0], len(kept)


@torch.no_grad()
def likeliest_phrases(
    backbone: Backbone,
    space: ActionSpace,
    latents: Together,
    captions: Sequence[str],
    *,
    masks: Together | None = None,
    batch_size: int = 32,
    kept: SearchCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[str, float]]:
    """Phrases sorted by the denoising loss of the exemplars with the phrase's point of the space as the action.

    The denoiser as a classifier (Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", 2023): all
    phrases meet the same noise and times, few of them for all phrases and more for the best.

    The first SIGINT, SIGTERM or SIGHUP ends the search after the batch at work.

    Args:
        backbone: Whose denoiser judges.
        space: Space of the backbone.
        latents: Latents of the exemplars, clean and scaled.
        captions: Theirs, with the placeholder where the action goes.
        masks: How much each place of the exemplars counts; None: all alike.
        batch_size: Pictures that the denoiser sees at once.
        kept: What an earlier call with the same arguments found; receives what this one finds.
        progress: Called with the pictures seen so far and in all, after each batch that is not kept.

    Returns:
        The shortlist (at most 16), likeliest first, with mean losses.

    Raises:
        DataError: What is to be kept cannot be written.
        KeyboardInterrupt: Stopped; finished batches are kept.
    """
    device = latents[0].device
    vectors = space.to(device).reconstruct(space.phrase_coefficients.to(device))  # per encoder: n s w
    few, count = list(range(min(_FIRST_PICTURES, len(latents)))), len(space.phrases)
    shortest = min(_SHORTLIST, count)
    all_seen = search_passes(space, len(latents))
    seen = 0

    def losses(
        phrases: Sequence[int], pictures: Sequence[int], seed: int, stop: threading.Event
    ) -> Float[Tensor, " n"]:
        generator = torch.Generator().manual_seed(seed)
        table = torch.empty(len(phrases), len(pictures))
        for places in by_shape(tuple(latents[i] for i in pictures)).values():
            table[:, places] = of_one_shape(phrases, [pictures[place] for place in places], generator, stop)
        return table.mean(1)

    def of_one_shape(
        phrases: Sequence[int], pictures: Sequence[int], generator: torch.Generator, stop: threading.Event
    ) -> Float[Tensor, "n m"]:
        nonlocal seen
        clean = torch.stack([latents[i] for i in pictures])
        counted = None if masks is None else torch.stack([masks[i] for i in pictures])
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noised = backbone.noising.add(clean, noise, backbone.noising.sample_t(len(clean), generator, _NOISE_BIAS))
        rows = [(phrase, i) for phrase in phrases for i in range(len(clean))]
        found = []

        def look(part: list[tuple[int, int]]) -> Float[Tensor, " n"]:
            prompts = [captions[pictures[i]].replace(PLACEHOLDER, f"<phrase {phrase}>") for phrase, i in part]
            own = {f"<phrase {phrase}>": [block[phrase] for block in vectors] for phrase, _ in part}
            which = torch.tensor([i for _, i in part], device=clean.device)
            prediction = backbone.predict(noised.x_t[which], noised.t[which], backbone.encode_text(prompts, own))
            mask = None if counted is None else counted[which]
            return (noised.weight[which] * denoising_errors(prediction, noised.target[which], mask)).cpu()

        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            known = None if kept is None else kept.take(len(part))
            found.append(look(part) if known is None else known)
            seen += len(part)
            if known is not None:
                continue
            if kept is not None:
                kept.add(found[-1])
            if progress is not None:
                progress(seen, all_seen)
            if stop.is_set():
                raise KeyboardInterrupt("stopped while looking for the starting phrase; run again to go on")
        return torch.cat(found).unflatten(0, (len(phrases), len(clean)))

    try:
        with stop_between_steps() as stop:
            shortlist = losses(range(count), few, 0, stop).argsort()[:shortest].tolist()
            often = [i for i in range(len(latents)) for _ in range(_SECOND_NOISES)]
            second = losses(shortlist, often, 1, stop)
    finally:
        if kept is not None:
            kept.save()
    return [(space.phrases[shortlist[i]], float(second[i])) for i in second.argsort().tolist()]
