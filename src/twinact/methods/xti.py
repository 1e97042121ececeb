"""Extended Textual Inversion (P+: Voynov et al., arXiv:2303.09522): vectors for every layer that reads the text."""

from torch import nn

from twinact.backbones.backbone import Backbone
from twinact.configs import XTIConfig
from twinact.methods.layers import text_layers
from twinact.methods.method import ParameterGroup
from twinact.methods.textual_inversion import TextualInversion


class XTI(TextualInversion):
    """Textual Inversion in which every cross-attention layer of the denoiser has `slots` vectors of its own.

    Layers at the bottom of a UNet decide shapes and those at its ends colours, so each may learn what it decides.

    Args:
        slots, learning_rate, start: As `TextualInversion`; all layers begin alike.

    Attributes:
        vectors: What is learned, one (layers, slots, width) for each text encoder; float32.
    """

    name = XTIConfig.name

    def attach(self, backbone: Backbone) -> list[ParameterGroup]:
        layers = len(text_layers(self.name, backbone, "textual-inversion"))
        groups = super().attach(backbone)
        self.vectors = [nn.Parameter(own.detach().expand(layers, -1, -1).clone()) for own in self.vectors]
        return [{"params": [own], "lr": group["lr"]} for own, group in zip(self.vectors, groups, strict=True)]
