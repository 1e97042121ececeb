"""Reads prompts with a language model (Qwen3): its chat template around them, its layers side by side.

The model is causal: every position knows what stands before it. What a prompt's words mean together stands in the
positions after them, those of the template included.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from twinact.backbones.text import Spliced, encode, splice
from twinact.errors import CheckpointError, ConfigError, first_line

if TYPE_CHECKING:
    from twinact.backbones.backbone import TokenTable

LENGTH = 512
"""Positions that the stock pipelines of these families read, the template included."""
_PROMPT = "[prompt]"


def chat_template(tokenizer: PreTrainedTokenizerBase, model_id: str, *, thinking: bool) -> tuple[str, str]:
    """What a tokenizer's chat template puts before and after a prompt that a user says to the model.

    Args:
        tokenizer: Has a chat template.
        model_id: For the message.
        thinking: Whether the model may think before it answers; if not, the template ends with an empty thought.

    Raises:
        CheckpointError: There is no template, or it cannot be used.
    """
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": _PROMPT}], tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        before, found, after = text.partition(_PROMPT)
        if not found:
            raise ValueError("it leaves the prompt out")
    except Exception as error:  # of transformers where there is none, of jinja2 where it is damaged
        raise CheckpointError(
            f"tokenizer of model {model_id!r} has no chat template that can be used ({first_line(error)}): download or "
            "copy the folder again"
        ) from error
    return before, after


def language_model(encoder: nn.Module) -> nn.Module:
    """The layers of an encoder without the head that says the next word, which nobody asks for."""
    return getattr(encoder, "model", encoder)


def drop_unread_layers(encoder: nn.Module, deepest: int, model_id: str) -> None:
    """Drops the layers of an encoder that lie deeper than any output that is read; weights and gradients end there.

    One more is kept: the outputs of the last layer are told normalised, and the denoiser wants them as they are.

    Args:
        encoder: Its configuration is changed with it, so that it is saved and loaded again as it is then.
        deepest: The number of the deepest output that is read; output 0 is the embedding.
        model_id: For the message.

    Raises:
        ConfigError: It has fewer layers than are read.
    """
    model, kept = language_model(encoder), deepest + 1
    if len(model.layers) < kept:
        raise ConfigError(
            f"the text encoder of {model_id!r} has {len(model.layers)} layers and this family reads the output of "
            f"layer {deepest} before the last one: use a model of the family"
        )
    model.layers = model.layers[:kept]
    for config in {id(one): one for one in (encoder.config, model.config)}.values():
        config.num_hidden_layers, config.layer_types = kept, config.layer_types[:kept]


def read_prompts(
    encoder: nn.Module,
    table: "TokenTable",
    template: tuple[str, str],
    prompts: Sequence[str],
    vectors: Mapping[str, Float[Tensor, "_ _"]],
    layers: Sequence[int],
) -> tuple[Float[Tensor, "b l d"], Spliced]:
    """Outputs of layers for prompts, side by side at every position, and the prompts as they were read.

    Args:
        encoder: As `language_model` gives it.
        table: Its tokens.
        template: As `chat_template` gives it.
        prompts, vectors: As `twinact.backbones.text.splice` takes them.
        layers: Numbers of outputs; 0 is the embedding, -1 the last one, normalised.
    """
    spliced = splice(table, prompts, vectors, LENGTH, template=template, weighed=False)
    outputs = encode(encoder, spliced, masked=True, output_hidden_states=True, use_cache=False).hidden_states
    return torch.cat([outputs[layer] for layer in layers], dim=-1), spliced
