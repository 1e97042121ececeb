"""Where learning begins: the phrases of a space under which a model finds the exemplars likeliest."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.base import Backbone
from twinact.backbones.noising import Noised
from twinact.space import ActionSpace

_FIRST_PICTURES, _SECOND_NOISES, _SHORTLIST = 2, 3, 16
# One picture tells most unlikely phrases: one of so many meets the next.
_ONE_OF = 4
# Poses are decided at high noise; at low noise all actions explain a picture alike.
_NOISE_BIAS = 0.8


@torch.no_grad()
def likeliest_phrases(
    backbone: Backbone,
    space: ActionSpace,
    latents: Float[Tensor, "n c h w"],
    captions: Sequence[str],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[str, float]]:
    """Phrases sorted by the denoising loss of the exemplars with the phrase's point of the space as the action.

    The denoiser as a classifier (Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", 2023), which
    meets phrases in rounds as there: all meet the same noise and times, one of them for all phrases, more for the best.

    Args:
        backbone: Whose denoiser judges.
        space: Of the backbone.
        latents: Of the exemplars, clean and scaled.
        captions: Theirs, with the placeholder where the action goes.
        batch_size: Pictures that the denoiser sees at once.
        progress: Called with the pictures seen so far and in all.

    Returns:
        The shortlist (at most 16), likeliest first, with mean losses.
    """
    vectors = space.to(latents.device).reconstruct(space.phrase_coefficients.to(latents.device))  # per encoder: n s w
    count, first = len(space.phrases), list(range(min(_FIRST_PICTURES, len(latents))))
    kept = min(_SHORTLIST, count)
    in_round = [max(count // _ONE_OF**index, kept) for index in first]
    again = [index for index in range(len(latents)) for _ in range(_SECOND_NOISES)]
    seen, all_seen = 0, sum(in_round) + kept * len(again)

    def noised(pictures: Sequence[int], seed: int) -> Noised:
        generator = torch.Generator().manual_seed(seed)
        clean = latents[torch.tensor(pictures, device=latents.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return backbone.noising.add(clean, noise, backbone.noising.sample_t(len(clean), generator, _NOISE_BIAS))

    def losses(phrases: Sequence[int], pictures: Sequence[int], shown: Noised, rows: Sequence[int]) -> Tensor:
        nonlocal seen
        pairs = [(phrase, row) for phrase in phrases for row in rows]
        found = []
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            prompts = [captions[pictures[row]].replace(PLACEHOLDER, f"<phrase {phrase}>") for phrase, row in part]
            own = {f"<phrase {phrase}>": [block[phrase] for block in vectors] for phrase, _ in part}
            which = torch.tensor([row for _, row in part], device=latents.device)
            prediction = backbone.predict(shown.x_t[which], shown.t[which], backbone.encode_text(prompts, own))
            error = (prediction.float() - shown.target[which].float()).square().mean(dim=(1, 2, 3))
            found.append((shown.weight[which] * error).cpu())
            seen += len(part)
            if progress is not None:
                progress(seen, all_seen)
        return torch.cat(found).unflatten(0, (len(phrases), len(rows))).mean(1)

    look, likely, summed = noised(first, 0), list(range(count)), torch.zeros(count)
    for index, phrases in zip(first, in_round, strict=True):
        likely = likely[:phrases]
        summed[likely] += losses(likely, first, look, [index])
        likely = [likely[i] for i in summed[likely].argsort().tolist()]
    shortlist = likely[:kept]
    second = losses(shortlist, again, noised(again, 1), range(len(again)))
    return [(space.phrases[shortlist[i]], float(second[i])) for i in second.argsort().tolist()]
