"""Makes methods, the ways to learn an action, from their settings in `twinact.configs.methods`; each is one file."""

from importlib import import_module

from twinact.backbones.backbone import Backbone
from twinact.configs import LearnConfig
from twinact.errors import ConfigError
from twinact.intent import PoseTarget
from twinact.methods.method import Batch, Given, Method, ParameterGroup
from twinact.methods.with_lora import WithLora
from twinact.readers import ActionEncoder
from twinact.space import ActionSpace


def make_method(
    config: LearnConfig,
    backbone: Backbone,
    space: ActionSpace | None = None,
    encoder: ActionEncoder | None = None,
    target: PoseTarget | None = None,
) -> Method:
    """The method that a config names, with a LoRA if the config asks for one.

    Args:
        config: Checked settings.
        backbone: The model that it will learn on.
        space: Space of the backbone, for methods that take one.
        encoder: Encoder of the backbone, for methods that take one.
        target: The exemplars' pose, for methods that take one.

    Raises:
        ConfigError: A part that the method needs is missing, or does not fit the config.
        DataError: `start` has no tokens.
    """
    chosen = config.method
    if chosen.takes_space and space is None:
        raise ConfigError(f"method {chosen.name!r} needs an action space; build or load one for the backbone")
    if chosen.takes_space and space is not None and space.slots != config.slots:
        raise ConfigError(f"slots {config.slots} differs from the {space.slots} of the action space; use that")
    if config.lora_rank and not chosen.takes_lora:
        raise ConfigError(
            f"lora_rank {config.lora_rank} cannot be learned beside method {chosen.name!r}; leave it at 0"
        )
    given = Given(backbone, space, encoder, target)
    module, _, name = chosen.implementation.partition(":")
    method: Method = getattr(import_module(module), name).from_config(config, given)
    if config.lora_rank == 0:
        return method
    return WithLora(method, config.lora_rank, config.lora_learning_rate, config.seed, config.lora_layers)


__all__ = ["Batch", "Method", "ParameterGroup", "WithLora", "make_method"]
