"""Pictures of the class that an action belongs to, for prior preservation (DreamBooth, arXiv:2208.12242, eq. 2)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from twinact import PLACEHOLDER
from twinact.backbones.backbone import Backbone
from twinact.intent.prompts import other_prompts
from twinact.methods.losses import denoising_loss
from twinact.methods.method import Batch
from twinact.sample import draw

_NAME = "prior"


class PriorPictures:
    """Pictures that the model itself draws of the class, with many actors in many places, before anything is learned.

    They are drawn in the first step, so that the run counts the passes that they take.

    Args:
        count: How many.
        weight: Of their loss; with 0 none are drawn.
        word: The class, as in "posing"; it stands in prompts where an action would.
        seed: Of prompts and noise.
    """

    def __init__(self, count: int, weight: float, word: str, seed: int) -> None:
        self.weight = weight
        self.prompts = [
            prompt.replace(PLACEHOLDER, word) for prompt in other_prompts(torch.Generator().manual_seed(seed), count)
        ]
        self.seeds = [seed + number for number in range(count)]
        self.latents: Float[Tensor, "n c h w"] | None = None

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """The denoising loss of as many of them as the batch has pictures, at its times, with own noise; unweighted."""
        if self.weight == 0:
            return torch.zeros((), device=backbone.device)
        if self.latents is None:
            self.latents = self._drawn(backbone)
        chosen = torch.randint(len(self.prompts), (len(batch.latents),), generator=generator)
        latents = self.latents[chosen.to(self.latents.device)]
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        noised = backbone.noising.add(latents, noise, batch.t)
        cond = backbone.encode_text([self.prompts[i] for i in chosen.tolist()])
        return denoising_loss(backbone.predict(noised.x_t, noised.t, cond), noised.target, noised.weight)

    @torch.no_grad()
    def _drawn(self, backbone: Backbone) -> Float[Tensor, "n c h w"]:
        found = []
        with _counted(backbone):
            for picture in draw(backbone, self.prompts, seeds=self.seeds):
                pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
                with backbone.autoencoder_on_device():
                    found.append(backbone.encode_image(pixels.to(backbone.device, backbone.dtype)))
        return torch.cat(found)

    def state_dict(self) -> dict[str, Tensor]:
        """The pictures, once they are drawn: a run that goes on must not draw them with what it has learned."""
        return {} if self.latents is None else {_NAME: self.latents}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Inverse of `state_dict`; other names are passed over."""
        self.latents = state[_NAME].to(device) if _NAME in state else None


@contextmanager
def _counted(backbone: Backbone) -> Iterator[None]:
    """While open, pictures that the denoiser sees are counted although a stock pipeline shows them to it."""

    def count(module: nn.Module, args: Any, output: Any) -> None:
        backbone.passes.forward += len(output[0])

    handle = backbone.denoiser.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()
