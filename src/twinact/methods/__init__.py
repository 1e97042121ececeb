"""Ways to learn an action; each is one file, made here from a config."""

from twinact.backbones.base import Backbone
from twinact.configs import LearnConfig
from twinact.encoders import ActionEncoder
from twinact.errors import ConfigError
from twinact.methods.base import Batch, Method, ParameterGroup
from twinact.methods.lora import WithLora
from twinact.methods.textual_inversion import TextualInversion
from twinact.methods.twinact import TwinAct
from twinact.space import ActionSpace


def make_method(
    config: LearnConfig, backbone: Backbone, space: ActionSpace | None = None, encoder: ActionEncoder | None = None
) -> Method:
    """The method that a config names, with a LoRA if the config asks for one.

    Args:
        config: Checked settings.
        backbone: What it will learn on.
        space: Of the backbone; needed by "twinact".
        encoder: Of the backbone; needed by "twinact" unless `similarity_weight` is 0.

    Raises:
        ConfigError: A part that the method needs is missing, or does not fit the config.
        DataError: `start` has no tokens.
    """
    method = _method(config, backbone, space, encoder)
    if config.lora_rank == 0:
        return method
    return WithLora(method, config.lora_rank, config.lora_learning_rate, config.seed)


def _method(
    config: LearnConfig, backbone: Backbone, space: ActionSpace | None, encoder: ActionEncoder | None
) -> Method:
    if config.method == "textual-inversion":
        return TextualInversion(config.slots, config.rate, config.start)
    if space is None:
        raise ConfigError("method 'twinact' needs an action space; build or load one for the backbone")
    if space.slots != config.slots:
        raise ConfigError(f"slots {config.slots} differs from the {space.slots} of the action space; use that")
    return TwinAct(
        space,
        encoder,
        learning_rate=config.rate,
        similarity_weight=config.similarity_weight,
        prior_weight=config.prior_weight,
        rank=config.rank,
        start=None if config.start is None else space.project_phrase(config.start, backbone.token_tables())[0],
    )


__all__ = ["Batch", "Method", "ParameterGroup", "TextualInversion", "TwinAct", "WithLora", "make_method"]
