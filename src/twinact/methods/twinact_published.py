"""TwinAct as its authors' code has it (NeurIPS 2024), to compare with; `twinact.methods.twinact` is ours.

What the paper says and its code does differ. This is what the code does: a frozen word, and on it the weighted sum of
basis vectors, whose weights come out of small networks with a constant input. The mean of the basis is not added. (The
authors' code has no licence, and none of it is here.)
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from twinact.action import Action
from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig, PublishedTwinActConfig
from twinact.methods.method import Batch, Given, ParameterGroup, denoise
from twinact.methods.textual_inversion import starting_vectors
from twinact.methods.twinact import check_space
from twinact.space import ActionSpace

WORD = "action"
_FEATURES, _HIDDEN = 320, 640


class PublishedTwinAct:
    """Learns the weights of basis vectors, for each text encoder and slot apart, by the denoising loss.

    The input of the networks stands for features that the authors averaged over the exemplars once: it is constant
    during learning, so here it is random. Their similarity term is left out: it needs CLIP's image encoder, which no
    text-to-image model brings, and the code gives it noise to look at.

    Args:
        space: Made from the backbone's own embeddings.
        components: Basis vectors of every slot; all of them in a space that has fewer.
        learning_rate: Of the networks.
        word: The frozen word; None takes `WORD`.
        seed: Of the networks and their input.
    """

    name = PublishedTwinActConfig.name

    def __init__(self, space: ActionSpace, components: int, learning_rate: float, word: str | None, seed: int) -> None:
        self.space, self.components = space, min(components, space.rank)
        self.learning_rate, self.word, self.seed = learning_rate, word or WORD, seed
        self.networks = nn.ModuleList()  # one for each text encoder and slot, slots running fastest
        self._model_id = ""

    @classmethod
    def from_config(cls, config: LearnConfig, given: Given) -> "PublishedTwinAct":
        assert isinstance(config.method, PublishedTwinActConfig) and given.space is not None
        return cls(given.space, config.method.components, config.rate, config.start, config.seed)

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        check_space(self.space, backbone)
        self._model_id = backbone.model_id
        generator = torch.Generator().manual_seed(self.seed)
        self._features = torch.randn(_FEATURES, generator=generator).to(backbone.device)
        count = len(self.space.widths) * self.space.slots
        self.networks = nn.ModuleList(Weights(self.components, generator) for _ in range(count)).to(backbone.device)
        self._basis = self.space.basis[:, : self.components].to(backbone.device)
        self._words = [own.to(backbone.device) for own in starting_vectors(backbone, self.word, self.space.slots)]
        return [{"params": list(self.networks.parameters()), "lr": self.learning_rate}]

    def current(self) -> list[Float[Tensor, "s w"]]:
        """The token vectors as prompts take them now, one tensor for each text encoder; differentiable."""
        found = []
        blocks = self._basis.split(self.space.widths, dim=2)
        for index, (word, block) in enumerate(zip(self._words, blocks, strict=True)):
            own = self.networks[index * self.space.slots : (index + 1) * self.space.slots]
            weights = torch.stack([network(self._features) for network in own])  # (s, components)
            found.append(word + torch.einsum("sk,skw->sw", weights, block))
        return found

    def detach(self, backbone: Backbone) -> None:
        pass  # the backbone was never changed

    def loss(self, backbone: Backbone, batch: Batch, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        with torch.autocast(backbone.device.type, enabled=False):  # rounded vectors would not be those exported
            vectors = self.current()
        denoising = denoise(backbone, batch, vectors).loss
        return {"loss": denoising, "denoising": denoising}

    def identity(self) -> dict[str, Any]:
        return {"space": self.space.hash}

    def state_dict(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.networks.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.networks.load_state_dict(state)

    def action(self, name: str, meta: dict[str, Any]) -> Action:
        return Action(name, [vectors.detach() for vectors in self.current()], self._model_id, meta=meta)


class Weights(nn.Module):
    """Features to the weights of basis vectors: linear, GELU, normalised to length 1, linear."""

    def __init__(self, components: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(_FEATURES, _HIDDEN), nn.Linear(_HIDDEN, components)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Float[Tensor, " f"]) -> Float[Tensor, " k"]:
        return self.second(F.normalize(F.gelu(self.first(features)), dim=0))
