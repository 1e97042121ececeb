"""The settings of the methods that others have published, one class for each; `twinact.configs.methods` lists them."""

from dataclasses import dataclass
from typing import ClassVar

from twinact.configs.method import MethodConfig
from twinact.configs.settings import Bounds, Span, Tuned, setting


@dataclass(frozen=True, kw_only=True)
class TextualInversionConfig(MethodConfig):
    """Textual Inversion: free token vectors."""

    name: ClassVar[str] = "textual-inversion"
    title: ClassVar[str] = "Textual Inversion"
    implementation: ClassVar[str] = "twinact.methods.textual_inversion:TextualInversion"
    learning_rate: ClassVar[float] = 5e-3


@dataclass(frozen=True, kw_only=True)
class CoReConfig(MethodConfig):
    """CoRe: Textual Inversion whose words around the action keep their meaning."""

    name: ClassVar[str] = "core"
    title: ClassVar[str] = "CoRe"
    implementation: ClassVar[str] = "twinact.methods.core:CoRe"
    learning_rate: ClassVar[float] = 5e-3
    tuned: ClassVar[Tuned] = {"slots": (1, 3, 7), "context_weight": Span(0.01, 1.0)}

    context_weight: float = setting(
        "Weight of the distance of the words around the action from what they are around a known word.",
        0.1,
        bounds=Bounds(0, 1e6),
    )
    prompts_per_step: int = setting("Prompts with other actors in a step.", 2, bounds=Bounds(1, 4096))


@dataclass(frozen=True, kw_only=True)
class DirectionalConfig(MethodConfig):
    """Directional Textual Inversion: token vectors of fixed length."""

    name: ClassVar[str] = "dti"
    title: ClassVar[str] = "Directional Textual Inversion"
    implementation: ClassVar[str] = "twinact.methods.directional:DirectionalInversion"
    learning_rate: ClassVar[float] = 0.04
    tuned: ClassVar[Tuned] = {"slots": (1, 3, 7), "concentration": Span(1e-5, 1e-3)}

    concentration: float = setting(
        "Concentration of the von Mises-Fisher prior, which draws directions to the start.",
        1e-4,
        bounds=Bounds(0, 1e6),
    )


@dataclass(frozen=True, kw_only=True)
class ConceptPrismConfig(MethodConfig):
    """ConceptPrism: what only one exemplar shows goes into vectors of its own, which are thrown away."""

    name: ClassVar[str] = "conceptprism"
    title: ClassVar[str] = "ConceptPrism"
    implementation: ClassVar[str] = "twinact.methods.conceptprism:ConceptPrism"
    learning_rate: ClassVar[float] = 5e-3
    tuned: ClassVar[Tuned] = {
        "slots": (1, 3, 7),
        "exclusion_weight": Span(5e-3, 0.5),
        "residual_slots": (4, 8),
    }

    exclusion_weight: float = setting(
        "Weight of the exclusion loss: an exemplar's own vectors say nothing about the others.",
        0.05,
        bounds=Bounds(0, 1e6),
    )
    residual_slots: int = setting("Token vectors of each exemplar's own.", 8, bounds=Bounds(1, 16))

    def most_vectors(self, slots: int) -> int:
        return slots + self.residual_slots


@dataclass(frozen=True, kw_only=True)
class CrossInitializationConfig(MethodConfig):
    """Cross-Initialization: Textual Inversion that starts from the text encoder's output, and stays near it."""

    name: ClassVar[str] = "cross-initialization"
    title: ClassVar[str] = "Cross-Initialization"
    implementation: ClassVar[str] = "twinact.methods.cross_initialization:CrossInitialization"
    learning_rate: ClassVar[float] = 0.02
    tuned: ClassVar[Tuned] = {"slots": (1, 3, 7), "start_weight": Span(1e-6, 1e-4)}

    start_weight: float = setting("Weight of the squared distance from the start.", 1e-5, bounds=Bounds(0, 1e6))


@dataclass(frozen=True, kw_only=True)
class ReVersionConfig(MethodConfig):
    """ReVersion, with verbs: Textual Inversion steered towards verbs and away from the other words of the captions."""

    name: ClassVar[str] = "reversion"
    title: ClassVar[str] = "ReVersion (verbs)"
    implementation: ClassVar[str] = "twinact.methods.reversion:ReVersion"
    learning_rate: ClassVar[float] = 2e-3
    tuned: ClassVar[Tuned] = {"slots": (1, 3, 7), "steering_weight": Span(1e-3, 0.1)}

    steering_weight: float = setting("Weight of the steering loss.", 0.01, bounds=Bounds(0, 1e6))
    temperature: float = setting(
        "Temperature of the steering loss's softmax.", 0.07, bounds=Bounds(0, 1e3, low_open=True)
    )
    verbs_per_step: int = setting("Verbs that the action is steered towards in a step.", 4, bounds=Bounds(1, 4096))


@dataclass(frozen=True, kw_only=True)
class CelebBasisConfig(MethodConfig):
    """Celeb Basis, with phrases: coefficients of fixed length in the action space, learned by denoising alone."""

    name: ClassVar[str] = "celeb-basis"
    title: ClassVar[str] = "Celeb Basis (phrases)"
    implementation: ClassVar[str] = "twinact.methods.celeb_basis:CelebBasis"
    learning_rate: ClassVar[float] = 0.15
    takes_space: ClassVar[bool] = True
    tuned: ClassVar[Tuned] = {"rank": (None, 16, 64)}

    rank: int | None = setting(
        "Number of leading components of every slot that are learned.", None, bounds=Bounds(1, 100_000), unset="all"
    )


@dataclass(frozen=True, kw_only=True)
class GradientFreeConfig(MethodConfig):
    """Gradient-free Textual Inversion: coefficients found by an evolution strategy."""

    name: ClassVar[str] = "gradient-free"
    title: ClassVar[str] = "Gradient-free Textual Inversion"
    implementation: ClassVar[str] = "twinact.methods.gradient_free:GradientFree"
    learning_rate: ClassVar[float] = 0.05
    takes_space: ClassVar[bool] = True
    takes_lora: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"components": (4, 16, 64), "pairs": (2, 4, 8), "spread": Span(0.1, 1.0)}

    components: int = setting(
        "Leading components of every slot, or as many as the space has.", 16, bounds=Bounds(1, 100_000)
    )
    pairs: int = setting("Pairs of neighbours that a step asks the denoiser about.", 4, bounds=Bounds(1, 4096))
    spread: float = setting(
        "How far away the neighbours are, in standard deviations of the phrases.", 0.3, bounds=Bounds(0, 100, True)
    )


@dataclass(frozen=True, kw_only=True)
class PreservingConfig(MethodConfig):
    """What methods have that learn a rare word, and preserve the rest with pictures of the class."""

    takes_lora: ClassVar[bool] = False
    # Published rates are for a thousand steps.
    tuned: ClassVar[Tuned] = {
        "learning_rate": Span(5e-6, 1e-3),
        "preservation_weight": (0.0, 0.3, 1.0),
        "prior_pictures": (4, 8, 16),
    }

    identifier: str = setting("The rare word before the class word.", "sks")
    preservation_weight: float = setting(
        "Weight of the denoising loss on pictures of the class; with 0 none are drawn.", 1.0, bounds=Bounds(0, 1e6)
    )
    prior_pictures: int = setting(
        "Pictures of the class that the model draws for it at first.", 50, bounds=Bounds(1, 10_000)
    )


@dataclass(frozen=True, kw_only=True)
class DreamBoothConfig(PreservingConfig):
    """DreamBooth with prior preservation; with a low rank, DreamBooth-LoRA."""

    name: ClassVar[str] = "dreambooth"
    title: ClassVar[str] = "DreamBooth"
    implementation: ClassVar[str] = "twinact.methods.dreambooth:DreamBooth"
    learning_rate: ClassVar[float] = 5e-6
    low_rank_rate: ClassVar[float] = 1e-4

    layer_rank: int | None = setting(
        "Rank of what the denoiser's layers learn.", None, bounds=Bounds(1, 1024), unset="full"
    )

    @property
    def rate(self) -> float:
        return self.learning_rate if self.layer_rank is None else self.low_rank_rate

    def most_vectors(self, slots: int) -> int:
        return 8  # the tokens of two words


@dataclass(frozen=True, kw_only=True)
class CustomDiffusionConfig(PreservingConfig):
    """Custom Diffusion: keys and values of the cross-attention, and one word's vector."""

    name: ClassVar[str] = "custom-diffusion"
    title: ClassVar[str] = "Custom Diffusion"
    implementation: ClassVar[str] = "twinact.methods.custom_diffusion:CustomDiffusion"
    learning_rate: ClassVar[float] = 1e-4

    identifier: str = setting("The rare word before the class word.", "ktn")

    def most_vectors(self, slots: int) -> int:
        return 2


@dataclass(frozen=True, kw_only=True)
class PivotalTuningConfig(MethodConfig):
    """Pivotal tuning: Textual Inversion first, then a LoRA as well."""

    name: ClassVar[str] = "pivotal-tuning"
    title: ClassVar[str] = "Pivotal tuning"
    implementation: ClassVar[str] = "twinact.methods.pivotal_tuning:PivotalTuning"
    learning_rate: ClassVar[float] = 5e-3
    takes_lora: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {
        "slots": (1, 3, 7),
        "inversion_share": (0.25, 0.5, 0.75),
        "layer_rank": (4, 8, 16),
    }

    inversion_share: float = setting(
        "Share of the run in which the token vectors learn alone.", 0.5, bounds=Bounds(0, 1, high_open=True)
    )
    layer_rank: int | None = setting("Rank of what the denoiser's layers learn.", 8, bounds=Bounds(1, 1024))


@dataclass(frozen=True, kw_only=True)
class ADIConfig(MethodConfig):
    """ADI: Textual Inversion of the numbers whose gradients tell of the action and not of its context."""

    name: ClassVar[str] = "adi"
    title: ClassVar[str] = "ADI"
    implementation: ClassVar[str] = "twinact.methods.adi:ADI"
    learning_rate: ClassVar[float] = 5e-3
    takes_lora: ClassVar[bool] = False
    tuned: ClassVar[Tuned] = {"slots": (1, 3, 7), "kept_share": Span(0.3, 0.9)}

    kept_share: float = setting(
        "Share of the numbers that each of the two comparisons of gradients keeps.",
        0.6,
        bounds=Bounds(0, 1, low_open=True),
    )


@dataclass(frozen=True, kw_only=True)
class TARAConfig(MethodConfig):
    """TARA: a LoRA that acts on the text at the action's own tokens alone."""

    name: ClassVar[str] = "tara"
    title: ClassVar[str] = "TARA"
    implementation: ClassVar[str] = "twinact.methods.tara:TARA"
    learning_rate: ClassVar[float] = 1e-4
    takes_lora: ClassVar[bool] = False
    # Published rates are for a thousand steps.
    tuned: ClassVar[Tuned] = {
        "learning_rate": Span(5e-5, 5e-3),
        "alignment_weight": Span(0.01, 1.0),
        "layer_rank": (4, 8, 16),
    }

    identifier: str = setting("The rare word before the class word.", "sks")
    layer_rank: int | None = setting("Rank of what the denoiser's layers learn.", 8, bounds=Bounds(1, 1024))
    alignment_weight: float = setting(
        "Weight of the distance of the rare word's keys from those of the class word.", 1.0, bounds=Bounds(0, 1e6)
    )

    def most_vectors(self, slots: int) -> int:
        return 8  # the tokens of two words


@dataclass(frozen=True, kw_only=True)
class XTIConfig(MethodConfig):
    """XTI: Textual Inversion with vectors for every layer that reads the text (P+)."""

    name: ClassVar[str] = "xti"
    title: ClassVar[str] = "XTI (P+)"
    implementation: ClassVar[str] = "twinact.methods.xti:XTI"
    learning_rate: ClassVar[float] = 5e-3


@dataclass(frozen=True, kw_only=True)
class NeTIConfig(MethodConfig):
    """NeTI: a network makes the vectors of every layer and every time."""

    name: ClassVar[str] = "neti"
    title: ClassVar[str] = "NeTI"
    implementation: ClassVar[str] = "twinact.methods.neti:NeTI"
    learning_rate: ClassVar[float] = 8e-3
    tuned: ClassVar[Tuned] = {"slots": (1, 3, 7), "dropout": (0.0, 0.5)}

    dropout: float = setting(
        "Probability of nested dropout, in which only the first numbers of the hidden layer count.",
        0.5,
        bounds=Bounds(0, 1),
    )


RIVALS: tuple[type[MethodConfig], ...] = (
    TextualInversionConfig,
    CoReConfig,
    DirectionalConfig,
    ConceptPrismConfig,
    CrossInitializationConfig,
    ReVersionConfig,
    CelebBasisConfig,
    GradientFreeConfig,
    DreamBoothConfig,
    CustomDiffusionConfig,
    PivotalTuningConfig,
    ADIConfig,
    TARAConfig,
    XTIConfig,
    NeTIConfig,
)
"""The methods that TwinAct is compared with, apart from its own published code."""
