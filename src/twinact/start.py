"""Where learning begins: the phrases of a space under which a model finds the exemplars likeliest."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from twinact import PLACEHOLDER
from twinact.backbones.base import Backbone
from twinact.space import ActionSpace

_FIRST_PICTURES, _SECOND_NOISES, _SHORTLIST = 2, 3, 16
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

    The denoiser as a classifier (Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", 2023): all
    phrases meet the same noise and times, few of them for all phrases and more for the best.

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
    few, count = list(range(min(_FIRST_PICTURES, len(latents)))), len(space.phrases)
    kept = min(_SHORTLIST, count)
    all_seen = count * len(few) + kept * len(latents) * _SECOND_NOISES
    seen = 0

    def losses(phrases: Sequence[int], pictures: Sequence[int], seed: int) -> Tensor:
        nonlocal seen
        generator = torch.Generator().manual_seed(seed)
        clean = latents[torch.tensor(pictures, device=latents.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noised = backbone.noising.add(clean, noise, backbone.noising.sample_t(len(clean), generator, _NOISE_BIAS))
        rows = [(phrase, i) for phrase in phrases for i in range(len(clean))]
        found = []
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            prompts = [captions[pictures[i]].replace(PLACEHOLDER, f"<phrase {phrase}>") for phrase, i in part]
            own = {f"<phrase {phrase}>": [block[phrase] for block in vectors] for phrase, _ in part}
            which = torch.tensor([i for _, i in part], device=clean.device)
            prediction = backbone.predict(noised.x_t[which], noised.t[which], backbone.encode_text(prompts, own))
            error = (prediction.float() - noised.target[which].float()).square().mean(dim=(1, 2, 3))
            found.append((noised.weight[which] * error).cpu())
            seen += len(part)
            if progress is not None:
                progress(seen, all_seen)
        return torch.cat(found).unflatten(0, (len(phrases), len(clean))).mean(1)

    shortlist = losses(range(count), few, 0).argsort()[:kept].tolist()
    second = losses(shortlist, [i for i in range(len(latents)) for _ in range(_SECOND_NOISES)], 1)
    return [(space.phrases[shortlist[i]], float(second[i])) for i in second.argsort().tolist()]
