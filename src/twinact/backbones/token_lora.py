"""LoRAs, as data, that act at an action's own tokens alone; `twinact.lora` attaches them."""

from collections.abc import Mapping

from torch import Tensor

from twinact import PLACEHOLDER


class TokenLora(dict[str, Tensor]):
    """A LoRA that changes what cross-attention reads at an action's own text positions, and nowhere else in a text.

    That is the token mask of TARA (Peng et al., AAAI 2026, arXiv:2508.08812). Its layers that do not read the text act
    everywhere, as those of any LoRA do.

    Attributes:
        placeholder: Whose positions these are.
    """

    def __init__(self, weights: Mapping[str, Tensor], placeholder: str = PLACEHOLDER) -> None:
        super().__init__(weights)
        self.placeholder = placeholder


def alike(weights: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """New weights that act where others do."""
    return TokenLora(new, weights.placeholder) if isinstance(weights, TokenLora) else dict(new)


def at(placeholder: str, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The LoRA of an action that a prompt calls by a placeholder."""
    return TokenLora(weights, placeholder) if isinstance(weights, TokenLora) else weights
