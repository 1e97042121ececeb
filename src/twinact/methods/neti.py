"""NeTI (Alaluf et al., SIGGRAPH Asia 2023, arXiv:2305.15391): a network that makes the vectors of layers and times."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from twinact import PLACEHOLDER
from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.backbones.cross_attention import TIMES, time_number
from twinact.configs import LearnConfig, NeTIConfig
from twinact.methods.layers import text_layers
from twinact.methods.losses import denoising_loss
from twinact.methods.method import Batch, Given, ParameterGroup
from twinact.methods.textual_inversion import starting_vectors

_WAVES, _HIDDEN = 1024, 128
_ANCHORS = 10  # of time, for every layer
_SPREAD = (0.03, 2.0)  # of the waves' frequencies, a step of time and a layer
_STEPS = 1000  # that times are counted in


class NeTI:
    """Learns a small network from time and layer to the token vectors, by the denoising loss.

    Time is told in `TIMES` parts, within which the vectors are constant, so that an action is a table of vectors. The
    directions of the vectors are free and their lengths are those of the start.

    Args:
        slots: Token vectors that the action takes.
        settings: Nested dropout.
        learning_rate: Of the network.
        start: Word or phrase whose vectors' lengths are taken, as `TextualInversion` begins with them.
        seed: Of the network's start.
    """

    name = NeTIConfig.name

    def __init__(self, slots: int, settings: NeTIConfig, learning_rate: float, start: str | None, seed: int) -> None:
        self.slots, self.settings, self.learning_rate = slots, settings, learning_rate
        self.start, self.seed = start, seed
        self._model_id = ""

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "NeTI":
        assert isinstance(config.method, NeTIConfig)
        return cls(config.slots, config.method, config.rate, config.start, config.seed)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        layers = len(text_layers(self.name, backbone, "textual-inversion"))
        self._model_id = backbone.model_id
        starts = [own.to(backbone.device) for own in starting_vectors(backbone, self.start, self.slots)]
        self._lengths = [own.norm(dim=1, keepdim=True) for own in starts]  # s 1
        self._widths = [own.shape[1] for own in starts]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.mapper = Mapper(layers, self.slots * sum(self._widths)).to(backbone.device)
        return [{"params": list(self.mapper.parameters()), "lr": self.learning_rate}]

    def vectors(
        self, times: Int64[Tensor, " n"], kept: Bool[Tensor, "n layers hidden"] | None = None
    ) -> list[Float[Tensor, "n layers s w"]]:
        """The token vectors at times, one tensor for each text encoder; differentiable.

        Args:
            times: Numbers of the parts of time.
            kept: Which numbers of the last hidden layer count; None: all.
        """
        outputs = self.mapper(times, kept).unflatten(2, (self.slots, -1)).split(self._widths, dim=3)
        return [F.normalize(own, dim=3) * length for own, length in zip(outputs, self._lengths, strict=True)]

    def detach(self, backbone: Backbone) -> None:
        pass  # the backbone was never changed

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        times = time_number(batch.t, int(backbone.noising.noisiest(1))).to(backbone.device)
        with torch.autocast(backbone.device.type, enabled=False):  # rounded vectors would not be those exported
            vectors = self.vectors(times, self._kept(len(times), generator).to(backbone.device))
        # Every picture has a time of its own, and so a word of its own.
        words = [f"<act {number}>" for number in range(len(times))]
        prompts = [caption.replace(PLACEHOLDER, word) for caption, word in zip(batch.captions, words, strict=True)]
        cond = backbone.encode_text(prompts, {word: [own[i] for own in vectors] for i, word in enumerate(words)})
        noised = backbone.noising.add(batch.latents, batch.noise, batch.t)
        prediction = backbone.predict(noised.x_t, noised.t, cond)
        denoising = denoising_loss(prediction, noised.target, noised.weight, batch.mask)
        return {"loss": denoising, "denoising": denoising}

    def _kept(self, count: int, generator: torch.Generator) -> Bool[Tensor, "n layers hidden"]:
        """Nested dropout (Rippel et al., 2014): of some, only the first so many numbers, the most important ones."""
        shape = (count, self.mapper.layers, 1)
        dropped = torch.rand(shape, generator=generator) < self.settings.dropout
        most = torch.randint(_HIDDEN, shape, generator=generator)
        return ~dropped | (torch.arange(_HIDDEN) < most)

    def identity(self) -> dict[str, Any]:
        return {"times": TIMES}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.mapper.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mapper.load_state_dict(state)

    @torch.no_grad()
    def action(self, name: str, meta: dict[str, Any]) -> Action:
        times = torch.arange(TIMES, device=self._lengths[0].device)
        return Action(name, self.vectors(times), self._model_id, meta=meta)


class Mapper(nn.Module):
    """Random Fourier features of time and layer (Tancik et al., 2020), and a network that begins at anchors in them.

    Args:
        layers: Cross-attention layers of the denoiser.
        outputs: Numbers that it makes for each time and layer.
    """

    def __init__(self, layers: int, outputs: int) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("waves", torch.randn(_WAVES, 2) * torch.tensor(_SPREAD))
        anchors = torch.arange(_ANCHORS) * (_STEPS / _ANCHORS)
        near = nn.Linear(2 * _WAVES, _ANCHORS * layers)
        near.weight.data = self._features(anchors).flatten(0, 1)
        self.hidden = nn.Sequential(
            near,
            *(nn.Linear(_ANCHORS * layers, _HIDDEN), nn.LayerNorm(_HIDDEN), nn.LeakyReLU()),
            *(nn.Linear(_HIDDEN, _HIDDEN), nn.LayerNorm(_HIDDEN), nn.LeakyReLU()),
        )
        self.last = nn.Linear(_HIDDEN, outputs)

    def forward(
        self, times: Int64[Tensor, " n"], kept: Bool[Tensor, "n layers hidden"] | None
    ) -> Float[Tensor, "n layers out"]:
        middle = (times + 0.5) * (_STEPS / TIMES)
        hidden = self.hidden(self._features(middle))
        return self.last(hidden if kept is None else hidden * kept)

    def _features(self, steps: Float[Tensor, " n"]) -> Float[Tensor, "n layers f"]:
        number = torch.arange(self.layers, device=steps.device)
        phases = steps[:, None, None] * self.waves[:, 0] + number[:, None] * self.waves[:, 1]  # n layers waves
        return torch.cat([phases.sin(), phases.cos()], dim=2) / math.sqrt(_WAVES)  # of length 1
