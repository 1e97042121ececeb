"""Where learning begins: the phrases of a space under which a model finds the exemplars likeliest."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.base import Backbone
from twinact.backbones.memory import PRESETS
from twinact.backbones.text import cuts_untold
from twinact.batches import latent_masks
from twinact.configs import RunConfig
from twinact.exemplars import Exemplars, check_captions
from twinact.gradients import autocast, less_memory, out_of_memory_told
from twinact.kept import KeptLosses
from twinact.lock import lock
from twinact.losses import denoising_errors
from twinact.runs import SEARCH_FILE
from twinact.space import ActionSpace
from twinact.stopping import stop_between_steps
from twinact.train import encode_exemplars

# Pictures that the denoiser sees at once; without gradients, so more than a step has.
_AT_ONCE = {"low": 4, "normal": 32, "fast": 32}
_FIRST_PICTURES, _SECOND_NOISES, _SHORTLIST = 2, 3, 16
# Poses are decided at high noise; at low noise all actions explain a picture alike.
_NOISE_BIAS = 0.8


def starting_phrase(
    backbone: Backbone,
    space: ActionSpace,
    exemplars: Exemplars,
    run_dir: str | Path,
    run: RunConfig,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """The phrase of a space that suits the exemplars of a run best, by `likeliest_phrases`.

    The search takes the run folder for itself. What it has found lies there in `SEARCH_FILE`, until the run begins: a
    search that was stopped goes on, to the same bits.

    Args:
        backbone, space, exemplars: Of the run.
        run_dir: Its folder, in which no run has begun.
        run: How to carry it out.
        progress: As in `likeliest_phrases`.

    Raises:
        DataError: The model would not read the action in a caption; `run_dir` is in use or cannot be written.
        OutOfMemory: It does not fit into memory.
        KeyboardInterrupt: Stopped; what was found so far is kept.
    """
    told = out_of_memory_told("looking for the starting phrase", less_memory(run.memory))
    with told, cuts_untold():  # training tells of captions that are cut
        check_captions(exemplars, backbone, space.slots)
        latents = encode_exemplars(backbone, exemplars)
        savings = replace(PRESETS[run.memory], compile=False)  # hardly longer than compiling takes
        batch_size = _AT_ONCE[run.memory]
        decisive = {
            "model": backbone.model_id,
            "space": space.hash,
            "exemplars": exemplars.hashes,
            "captions": exemplars.captions,
            "precision": run.precision,
            "weights": str(backbone.dtype),
            "batch_size": batch_size,  # sums of other batches are rounded otherwise
        }
        with lock(Path(run_dir)), backbone.saving(savings), autocast(backbone.device, run.precision):
            kept = KeptLosses(Path(run_dir) / SEARCH_FILE, decisive)
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
    return found[0][0]


@torch.no_grad()
def likeliest_phrases(
    backbone: Backbone,
    space: ActionSpace,
    latents: Float[Tensor, "n c h w"],
    captions: Sequence[str],
    *,
    masks: Float[Tensor, "n 1 h w"] | None = None,
    batch_size: int = 32,
    kept: KeptLosses | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[str, float]]:
    """Phrases sorted by the denoising loss of the exemplars with the phrase's point of the space as the action.

    The denoiser as a classifier (Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", 2023): all
    phrases meet the same noise and times, few of them for all phrases and more for the best.

    The first SIGINT or SIGTERM ends the search after the batch at work.

    Args:
        backbone: Whose denoiser judges.
        space: Of the backbone.
        latents: Of the exemplars, clean and scaled.
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
    vectors = space.to(latents.device).reconstruct(space.phrase_coefficients.to(latents.device))  # per encoder: n s w
    few, count = list(range(min(_FIRST_PICTURES, len(latents)))), len(space.phrases)
    shortest = min(_SHORTLIST, count)
    all_seen = count * len(few) + shortest * len(latents) * _SECOND_NOISES
    seen = 0

    def losses(phrases: Sequence[int], pictures: Sequence[int], seed: int, stop: threading.Event) -> Tensor:
        nonlocal seen
        generator = torch.Generator().manual_seed(seed)
        shown = torch.tensor(pictures, device=latents.device)
        clean, counted = latents[shown], None if masks is None else masks[shown]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noised = backbone.noising.add(clean, noise, backbone.noising.sample_t(len(clean), generator, _NOISE_BIAS))
        rows = [(phrase, i) for phrase in phrases for i in range(len(clean))]
        found = []

        def look(part: list[tuple[int, int]]) -> Tensor:
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
        return torch.cat(found).unflatten(0, (len(phrases), len(clean))).mean(1)

    try:
        with stop_between_steps() as stop:
            shortlist = losses(range(count), few, 0, stop).argsort()[:shortest].tolist()
            often = [i for i in range(len(latents)) for _ in range(_SECOND_NOISES)]
            second = losses(shortlist, often, 1, stop)
    finally:
        if kept is not None:
            kept.save()
    return [(space.phrases[shortlist[i]], float(second[i])) for i in second.argsort().tolist()]
