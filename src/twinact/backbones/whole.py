"""Makes sure that what libraries fill in when files are missing was not filled in.

`transformers` makes a tokenizer without its vocabulary, and gives tensors that a file lacks random values: the model
then opens, draws, and reads every word as another one. An interrupted download is such a folder.
"""

import inspect
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from twinact.backbones.weights import read_config
from twinact.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from diffusers import ConfigMixin, DiffusionPipeline
    from transformers import PreTrainedModel

    from twinact.backbones.backbone import TokenTable

# Published tokenizers count from 77 to 131,072; without their settings, 10 to the 30th.
_LONGEST = 10_000_000
_PLAIN = "a photo of the man in red"


def text_encoders(folder: Path, options: Mapping[str, Any]) -> dict[str, "PreTrainedModel"]:
    """The text encoders that a folder's index names, by name.

    Args:
        folder: In diffusers layout.
        options: Those of the pipeline's `from_pretrained`.

    Raises:
        CheckpointError: A config is missing or damaged, or a file lacks tensors of its network, or has some of another
            shape; the message names the part and the first tensor.
    """
    import transformers

    index = read_config(folder / "model_index.json")
    found = {}
    for name, entry in index.items():
        # What names another library is left to the pipeline, which refuses it.
        if not name.startswith("text_encoder") or not isinstance(entry, list) or entry[0] != "transformers":
            continue
        # Without one, transformers makes the largest model of the family's usual size, which fills the machine.
        read_config(folder / name / "config.json")
        variant = options["variant"]
        if variant is not None and not any((folder / name).glob(f"*.{variant}*")):
            variant = None  # of some parts there is no such copy
        encoder, told = getattr(transformers, entry[1]).from_pretrained(
            folder / name, dtype=options["dtype"], variant=variant, use_safetensors=True, local_files_only=True,
            output_loading_info=True, ignore_mismatched_sizes=True,  # told below, in words of ours
        )  # fmt: skip
        _tell_missing(told["missing_keys"], name, folder)
        for key, own, needed in sorted(told["mismatched_keys"]):
            raise CheckpointError(
                f"model {str(folder)!r}: in {name}, {key!r} has shape {tuple(own)} and its config asks for "
                f"{tuple(needed)}; download or copy it again"
            )
        found[name] = encoder
    return found


def check_networks(pipeline: "DiffusionPipeline", folder: Path) -> None:
    """Makes sure that the files of a pipeline's networks held all their tensors; `diffusers` leaves others empty.

    Raises:
        CheckpointError: They did not; the message names the part and the first tensor. Or a setting is no number where
            one is needed, or the autoencoder does not say how its latents are shifted, where the family asks for it.
    """
    from diffusers import ConfigMixin
    from torch.nn import Module

    vae = pipeline.components.get("vae")
    if "transformer" in pipeline.components and vae is not None and vae.config.get("shift_factor", 0.0) is None:
        raise CheckpointError(
            f"model {str(folder)!r}: the config of its vae has no shift_factor, which this family draws with; download "
            "or copy it again"
        )

    for name, network in pipeline.components.items():
        if isinstance(network, Module):
            if isinstance(network, ConfigMixin):
                _check_numbers(name, network, folder)
            _tell_missing([key for key, tensor in network.named_parameters() if tensor.is_meta], name, folder)


def _check_numbers(name: str, network: "ConfigMixin", folder: Path) -> None:
    """Makes sure that settings are numbers where networks compute with them; some ask for them only when they draw."""
    for key, parameter in inspect.signature(type(network).__init__).parameters.items():
        value, usual = network.config.get(key, parameter.default), parameter.default
        kinds = {*get_args(parameter.annotation)} or {parameter.annotation}
        if float in kinds and kinds <= {float, int, type(None)}:
            right = value is None or isinstance(value, int | float)
        elif isinstance(usual, tuple | list) and usual and all(isinstance(one, int | float) for one in usual):
            right = isinstance(value, tuple | list) and all(isinstance(one, int | float) for one in value)
        else:
            continue
        if not right:
            raise CheckpointError(
                f"model {str(folder)!r}: {key} is {value!r} in the config of its {name}, where numbers are needed; "
                "download or copy it again"
            )


def check_not_rounded(folder: Path) -> None:
    """Makes sure that the weights of a model are whole; others need the library that has rounded them.

    Raises:
        CheckpointError: A part is stored in fewer bits; the message names it, the library and the way without it.
    """
    for config in sorted(folder.glob("*/config.json")):
        how = read_config(config).get("quantization_config")
        if how is not None:
            by = how.get("quant_method", "another library") if isinstance(how, dict) else how
            raise CheckpointError(
                f"model {str(folder)!r}: {config.parent.name} is stored in fewer bits, as {by} rounds them, which is "
                "not read: give the model with whole weights; precision int8 or nf4 rounds them when it is opened, "
                "without any library"
            )


def cause(error: Exception) -> str:
    """What a library says about files that it cannot read, in one line and without its advice to programmers."""
    shapes = re.search(
        r"because (\S+) expected shape torch\.Size\(\[(.*?)\]\), but got torch\.Size\(\[(.*?)\]\)", str(error)
    )
    if shapes is not None:
        return f"{shapes[1]!r} has shape ({shapes[3]}) and its config asks for ({shapes[2]})"
    return first_line(error)


def _tell_missing(missing: Collection[str], name: str, folder: Path) -> None:
    if missing:
        raise CheckpointError(
            f"model {str(folder)!r}: {name} lacks {len(missing)} of its tensors, such as {min(missing)!r}; "
            "download or copy it again"
        )


def check_words(table: "TokenTable", folder: Path) -> None:
    """Makes sure that a tokenizer is the one of its text encoder.

    Raises:
        CheckpointError: It knows far fewer words than the encoder has rows, or more, or no plain words, or does not
            say how long texts may be.
    """
    part, tokenizer = table.name.replace("text_encoder", "tokenizer"), table.tokenizer
    words, rows = len(tokenizer), len(table.weight)
    again = f"{part} of model {str(folder)!r} is not whole"
    if not rows / 2 < words <= rows:
        raise CheckpointError(
            f"{again}: it knows {words} tokens and {table.name} has {rows}; download or copy the folder again"
        )
    if tokenizer.model_max_length > _LONGEST:
        raise CheckpointError(
            f"{again}: it does not say how long texts may be (tokenizer_config.json); download or copy the folder again"
        )
    ids = table.ids(_PLAIN)
    if len(set(ids)) < 2 or tokenizer.unk_token_id in ids:
        raise CheckpointError(f"{again}: it does not know plain words ({_PLAIN!r}); download or copy the folder again")
