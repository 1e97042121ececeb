"""Reads files of other tools as actions or actors: embeddings, LoRAs, and LoRAs with embeddings inside.

LoRAs go through the stock loader of the model's own pipeline, which knows the spellings of diffusers, and for UNets
those of A1111, kohya and OneTrainer, and are read back from the layers that it made. For SD3 it knows no other names,
and for FLUX.1 only the published sizes and not all that it meets: there `twinact.export.kohya` reads them.
Scales are multiplied in before, and names brought into what these loaders know: see `twinact.export.spellings`. With
different alphas in a UNet, the loader of diffusers 0.42 takes the most frequent one for all.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twinact import lora
from twinact.action import Action
from twinact.backbones import quiet
from twinact.backbones.backbone import Backbone
from twinact.backbones.text import check_reach
from twinact.configs import check_name
from twinact.errors import CheckpointError, ConfigError, DataError, first_line
from twinact.export import kohya
from twinact.export.embeddings import check_format, import_embedding, read_tensors
from twinact.export.kinds import BUNDLE, is_lora, other_adapter
from twinact.export.spellings import respelled

_T5 = re.compile(r"^(lora_te|text_encoder).*encoder[._]block[._]|^text_encoders\.t5xxl\.")
_DOWN = (".lora_down.weight", lora.DOWN)


def import_action(path: str | Path, family: str, *, name: str, backbone: Backbone, word: str | None = None) -> Action:
    """Read an embedding, a LoRA, or both in one file, of any of these tools.

    Args:
        path: A safetensors file; other formats run code when they are read, and are refused.
        family: Pipeline class of the model, as `twinact.backbones.family` gives it.
        name: Name of the action; free to choose.
        backbone: The model that it is for; has no LoRA attached, and is as before when this returns.
        word: Which of several words in the file; None where it holds one or none.

    Returns:
        An action without coefficients; without vectors if the file is a LoRA alone.

    Raises:
        CheckpointError: It is no safetensors file, damaged, of another kind, or made for another model.
        ConfigError: The name is not allowed, or the backbone has a LoRA attached.
    """
    path = Path(path)
    check_name(name)
    check_format(path)
    keys, _ = read_tensors(path)
    with_lora = any(is_lora(key) for key in keys)
    other = other_adapter(keys)
    if other is not None:
        raise CheckpointError(f"{path} is a {other[0]} adapter ({other[1]}); only LoRA and embeddings can be read")
    vectors: tuple[Tensor, ...] = ()
    meta: dict[str, Any] = {"imported": path.name}
    if not with_lora or any(key.startswith(BUNDLE) for key in keys):
        widths = [table.width for table in backbone.token_tables()]
        tables = backbone.token_tables()
        found = import_embedding(
            path, family, name=name, model_id=backbone.model_id, widths=widths, word=word,
            plain=lambda encoder, text: tables[encoder].embed(text).float(),
        )  # fmt: skip
        vectors, meta = tuple(found.vectors), dict(found.meta)
        try:
            check_reach(backbone.token_tables(), {path.name: vectors})
        except DataError as error:
            raise CheckpointError(f"{path}: {error}") from error
    elif word is not None:
        raise CheckpointError(f"{path} holds no word, so that {word!r} cannot be chosen: leave --word out")
    weights = import_lora(path, backbone) if with_lora else {}
    return Action(name, vectors, backbone.model_id, lora=weights, meta=meta)


def import_lora(path: str | Path, backbone: Backbone) -> dict[str, Tensor]:
    """The LoRA in a file as `twinact.lora` has it, alpha multiplied in; arguments and errors as `import_action`."""
    path = Path(path)
    if next(lora.layers(backbone), None) is not None:
        raise ConfigError(f"model {backbone.model_id!r} has a LoRA attached already: detach it first")
    read, header = read_tensors(path)
    tensors = {key: tensor for key, tensor in read.items() if not key.startswith(BUNDLE)}
    _check_t5(path, tensors, backbone)
    with quiet():
        try:
            state, modules = _converted(tensors, header, backbone)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        # Every converter reports names that it does not know in its own way.
        except Exception as error:
            raise CheckpointError(
                f"{path} names its layers in an unknown way, as in {min(tensors)!r} ({_first_mismatch(error)}): save "
                "it in the layout of kohya's scripts or of diffusers"
            ) from error
        pipeline = backbone.pipeline()
        stray = next((key for key in state if key.partition(".")[0] not in pipeline._lora_loadable_modules), None)
        if stray is not None:
            raise CheckpointError(
                f"{path} has {stray!r}, which the loader of {type(pipeline).__name__} does not know: it is made for "
                "another family, or adapts a part that cannot be"
            )
        state = _with_kernels(state, backbone)
        _check_denoiser(path, state, backbone)
        try:
            weights = _through_the_loader(state, backbone)
        except Exception as error:
            raise CheckpointError(
                f"{path} does not fit model {backbone.model_id!r}: {_first_mismatch(error)}"
            ) from error
    if not weights:
        raise CheckpointError(
            f"{path} names its layers in an unknown way, as in {min(tensors)!r}: save it in the layout of kohya's "
            "scripts or of diffusers"
        )
    if modules > len(weights) // 2:  # the loader leaves out what it cannot place
        raise CheckpointError(
            f"{path} adapts {modules} layers and model {backbone.model_id!r} has only {len(weights) // 2} of them: "
            "it is made for another model"
        )
    return weights


def _converted(
    tensors: Mapping[str, Tensor], header: Mapping[str, str], backbone: Backbone
) -> tuple[dict[str, Tensor], int]:
    """Tensors under the names of diffusers, and the number of layers in the file."""
    pipeline = backbone.pipeline()
    part = backbone.denoiser_name
    spelled = respelled(tensors, header, encoders=len(backbone.token_tables()), part=part)
    if part == "transformer" and any(kohya.knows(key) for key in spelled):
        state = kohya.read(spelled, backbone)
        return state, len(state) // 2
    extra: dict[str, Any] = {"unet_config": backbone.denoiser.config} if part == "unet" else {}
    state, *_ = pipeline.lora_state_dict(dict(spelled), return_lora_metadata=True, **extra)
    state = respelled(state, {}, encoders=len(backbone.token_tables()), part=part)  # what was old came out old
    return state, sum(_layers_of(key) for key in spelled if key.endswith(_DOWN))


def _layers_of(key: str) -> int:
    """How many layers of diffusers a layer of the original code stands for."""
    return 3 if re.search(r"[._]qkv\.", key) else 4 if re.search(r"[._]linear1\.", key) else 1


def _check_t5(path: Path, tensors: Mapping[str, Tensor], backbone: Backbone) -> None:
    """Loaders of diffusers leave such layers out, with a warning at most."""
    layers = sorted({re.split(r"\.(lora|alpha)", key)[0] for key in tensors if _T5.search(key)})
    if layers and not hasattr(backbone.pipeline(), "unet"):
        raise CheckpointError(
            f"{path} has a LoRA of T5, which is not read ({layers[0]}{', …' if len(layers) > 1 else ''}: "
            f"{len(layers)} layer{'s' if len(layers) > 1 else ''}): remove them, or train without T5"
        )


def _with_kernels(state: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """With the dimensions of the model's layers: tools write projections as convolutions of 1 × 1, or back."""
    found = dict(state)
    networks = backbone.pipeline().components
    for key, tensor in state.items():
        part, _, layer = key.removesuffix(lora.DOWN).removesuffix(lora.UP).partition(".")
        module = dict(networks[part].named_modules()).get(layer) if tensor.ndim in (2, 4) else None
        dimensions = getattr(getattr(module, "weight", None), "ndim", tensor.ndim)
        if tensor.ndim == 4 and dimensions == 2 and tensor.shape[2:] == (1, 1):
            found[key] = tensor[..., 0, 0]
        elif tensor.ndim == 2 and dimensions == 4:
            found[key] = tensor[..., None, None]
    return found


def _check_denoiser(path: Path, state: Mapping[str, Tensor], backbone: Backbone) -> None:
    """Finds out what is wrong before the loader does, which says it in a page."""
    part = next(name for name, module in backbone.pipeline().components.items() if module is backbone.denoiser)
    own = {key: tensor for key, tensor in state.items() if key.startswith(f"{part}.")}
    try:
        lora.check(backbone, own)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


@torch.no_grad()
def _through_the_loader(state: dict[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """What the stock loaders make of it."""
    pipeline = backbone.pipeline()
    try:
        for part in {key.partition(".")[0] for key in state}:
            network = getattr(pipeline, part)
            if network is backbone.denoiser:
                network.load_lora_adapter(state, prefix=part, low_cpu_mem_usage=True)
            else:
                pipeline.load_lora_into_text_encoder(state, None, network, prefix=part, low_cpu_mem_usage=True)
        found: dict[str, Tensor] = {}
        for name, layer in lora.layers(backbone):
            (adapter,) = layer.lora_A
            found[name + lora.DOWN] = layer.lora_A[adapter].weight.float().clone()
            found[name + lora.UP] = layer.scaling[adapter] * layer.lora_B[adapter].weight.float()
        return found
    finally:
        lora.detach(backbone)


def _first_mismatch(error: Exception) -> str:
    """The line in which torch names the first layer of another size, else the first line."""
    lines = str(error).splitlines()
    told = next((line.strip() for line in lines if "size mismatch" in line), first_line(error))[:300]
    return "its loader cannot place a layer of it" if told.endswith(":") or "infer state dict" in told else told
