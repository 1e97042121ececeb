"""LoRA (Hu et al., arXiv:2106.09685): low-rank additions to a model's layers, attached while it learns or draws.

A LoRA is a flat mapping in the keys that diffusers reads itself: ``<part>.<layer>.lora_A.weight`` (r, in) and
``<part>.<layer>.lora_B.weight`` (out, r), where the part is the network's name in the pipeline ("unet", "transformer",
"text_encoder"). A layer's output gains B·A·x. Of a convolution, A is (r, in, k, k) and B (out, r, 1, 1), as in
LoCon (Yeh et al., ICLR 2024, arXiv:2309.14859). There is no alpha: files of other tools have alpha / r multiplied into
B when they are read, so that one number less can be lost between tools.

A `TokenLora` is one whose changes of the cross-attention's keys and values act only where an action's vectors stand.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from twinact.backbones.backbone import Backbone
from twinact.backbones.cross_attention import Reader
from twinact.backbones.token_lora import TokenLora, alike
from twinact.configs import LORA_LAYERS, STRENGTHS, check_number
from twinact.errors import CheckpointError, ConfigError, TwinactError

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
_ADAPTER = "twinact"
_OF_TEXT = ("to_k", "to_v")


@contextmanager
def attached(backbone: Backbone, loras: Sequence[Mapping[str, Tensor]]) -> Iterator[None]:
    """While open, the model is what it was plus the LoRAs, all of them at once; afterwards it is as before, to the bit.

    Args:
        backbone: Its networks, also those that its pipelines share, gain and lose the layers.
        loras: See the module; empty ones are passed over.

    Raises:
        ConfigError: The backbone has a LoRA attached already.
        CheckpointError: A LoRA was made for another model.
    """
    given = [weights for weights in loras if weights]
    if not given:
        yield
        return
    _attach(backbone, given)
    try:
        yield
    finally:
        detach(backbone)


def attach(backbone: Backbone, weights: Mapping[str, Tensor]) -> None:
    """As `attached` with one LoRA, until `detach`; for runs that do not fit into one block."""
    _attach(backbone, [weights])


def _attach(backbone: Backbone, loras: Sequence[Mapping[str, Tensor]]) -> None:
    pipeline = backbone.pipeline()
    if next(layers(backbone), None) is not None:
        raise ConfigError(f"model {backbone.model_id!r} has a LoRA attached already: detach it first")
    for weights in loras:
        check(backbone, weights)
    # Copies: what is attached becomes parameters, and must not be learned on in somebody's action.
    copies = {key: tensor.detach().clone() for key, tensor in _together(loras).items()}
    # Without random numbers, which would be drawn from the global generator and then overwritten.
    options = {"adapter_name": _ADAPTER, "low_cpu_mem_usage": True}
    try:
        for part in sorted({key.partition(".")[0] for key in copies}):
            network = getattr(pipeline, part)
            if network is backbone.denoiser:
                network.load_lora_adapter(copies, prefix=part, **options)
            else:
                pipeline.load_lora_into_text_encoder(copies, None, network, prefix=part, **options)
        _mask(backbone, loras)
    except BaseException:
        detach(backbone)
        raise


def detach(backbone: Backbone) -> None:
    """Takes away what `attach` gave; nothing happens where there is nothing."""
    if next(layers(backbone), None) is not None:
        backbone.pipeline().unload_lora_weights()
    backbone.marked = ()


def layers(backbone: Backbone) -> Iterator[tuple[str, "LoraLayer"]]:
    """Layers that have a LoRA now, with their names in the pipeline, as in "unet.mid_block.attentions.0.proj_in"."""
    from peft.tuners.lora import LoraLayer

    pipeline = backbone.pipeline()
    for part in pipeline._lora_loadable_modules:
        network = getattr(pipeline, part, None)
        for name, module in network.named_modules() if isinstance(network, nn.Module) else ():
            if isinstance(module, LoraLayer):
                yield f"{part}.{name}", module


def parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """Parameters of the one attached LoRA, under the names that it was given with."""
    found: dict[str, nn.Parameter] = {}
    for name, layer in layers(backbone):
        (adapter,) = layer.lora_A
        found[name + DOWN], found[name + UP] = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    return found


def fresh(backbone: Backbone, rank: int, seed: int, layers: str = LORA_LAYERS[0]) -> dict[str, Tensor]:
    """A LoRA that changes nothing yet: A random as PEFT has it, B zero; float32.

    Args:
        backbone: Its denoiser is what is adapted.
        rank: r, 1 or more.
        seed: Seed of A.
        layers: One of `twinact.configs.LORA_LAYERS`: the backbone's `lora_targets`, or the convolutions of a UNet's
            residual blocks at the finest resolution.

    Raises:
        ConfigError: The denoiser has no such layers.
    """
    generator = torch.Generator().manual_seed(seed)
    part = _part_of(backbone, backbone.denoiser)
    weights: dict[str, Tensor] = {}
    for name, module in _adapted(backbone, layers):
        down = torch.empty(rank, *module.weight.shape[1:])
        nn.init.kaiming_uniform_(down, a=5**0.5, generator=generator)
        weights[f"{part}.{name}{DOWN}"] = down
        weights[f"{part}.{name}{UP}"] = torch.zeros(len(module.weight), rank, *[1] * (module.weight.ndim - 2))
    if not weights:
        raise ConfigError(
            f"model {backbone.model_id!r} has no {layers} that a LoRA could adapt: leave lora_layers at "
            f"{LORA_LAYERS[0]!r}"
        )
    return weights


def _adapted(backbone: Backbone, layers: str) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Layers of a denoiser by name, in its order."""
    last = len(getattr(backbone.denoiser, "up_blocks", ())) - 1
    finest = re.compile(rf"(down_blocks\.0|up_blocks\.{last})\.resnets\.\d+\.conv[12]")
    ends = tuple(f".{end}" for end in backbone.lora_targets)
    for name, module in backbone.denoiser.named_modules():
        if layers == LORA_LAYERS[0]:
            if isinstance(module, nn.Linear) and f".{name}".endswith(ends):
                yield name, module
        elif isinstance(module, nn.Conv2d) and finest.fullmatch(name):
            yield name, module


def scaled(weights: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    """The LoRA at another strength: 0 nothing, 1 as it is, -1 its opposite.

    Raises:
        ConfigError: The strength lies outside `twinact.configs.STRENGTHS`.
    """
    check_number("strength of a LoRA", strength, STRENGTHS)
    new = {name: strength * tensor if name.endswith(UP) else tensor for name, tensor in weights.items()}
    return alike(weights, new)


def check(backbone: Backbone, weights: Mapping[str, Tensor]) -> None:
    """Makes sure that a LoRA is whole and fits the layers of a model.

    Raises:
        CheckpointError: It does not; the message names the first layer that is wrong.
    """
    pipeline = backbone.pipeline()
    for key in weights:
        name = key.removesuffix(DOWN).removesuffix(UP)
        part, _, path = name.partition(".")
        pair = weights.get(name + DOWN), weights.get(name + UP)
        if name == key or pair[0] is None or pair[1] is None or min(pair[0].ndim, pair[1].ndim) < 2:
            raise CheckpointError(f"LoRA weight {key!r} lacks its other half: copy or make the file again")
        layer = None
        if part in pipeline._lora_loadable_modules:
            try:
                layer = getattr(pipeline, part).get_submodule(path)
            except AttributeError:
                layer = None
        weight = getattr(layer, "weight", None)
        if weight is None or weight.ndim < 2:
            raise CheckpointError(
                f"LoRA adapts {name!r}, which model {backbone.model_id!r} does not have: it was made for another model"
            )
        takes = f"{pair[0].shape[1]} to {pair[1].shape[0]}"
        if takes != f"{weight.shape[1]} to {weight.shape[0]}" or pair[0].shape[0] != pair[1].shape[1]:
            raise CheckpointError(
                f"LoRA of {name!r} maps {takes} numbers and model {backbone.model_id!r} needs "
                f"{weight.shape[1]} to {weight.shape[0]}: it was made for another model"
            )


def _mask(backbone: Backbone, loras: Sequence[Mapping[str, Tensor]]) -> None:
    """Holds attached LoRAs that are `TokenLora` to the positions of their placeholders."""
    said = tuple(dict.fromkeys(one.placeholder for one in loras if isinstance(one, TokenLora)))
    backbone.marked = said
    for name, layer in layers(backbone) if said else ():
        attention, _, end = name.partition(".")[2].rpartition(".")
        if end not in _OF_TEXT or attention not in backbone.cross_attention:
            continue
        # Of every rank, in the order in which `_together` puts them side by side: 0 acts everywhere.
        places = [
            1 + said.index(one.placeholder) if isinstance(one, TokenLora) else 0
            for one in loras
            for _ in range(len(one.get(name + DOWN, ())))
        ]
        (adapter,) = layer.lora_A
        down = layer.lora_A[adapter]
        index = torch.tensor(places, device=down.weight.device)
        down.register_forward_hook(partial(_hold, reader=backbone.cross_attention[attention], places=index))


def _hold(module: nn.Module, args: object, output: Tensor, *, reader: Reader, places: Tensor) -> Tensor:
    """A forward hook on the factor A of keys or values: (b, l, r) is zero where a rank does not act."""
    if reader.marks is None:
        raise TwinactError("text was encoded before a LoRA was attached that acts at its own words: encode it again")
    everywhere = torch.ones_like(reader.marks[:, :1])
    acting = torch.cat([everywhere, reader.marks], dim=1)[:, places]  # b r l
    return output * acting.transpose(1, 2).to(output.dtype)


def _part_of(backbone: Backbone, network: nn.Module) -> str:
    return next(name for name, part in backbone.pipeline().components.items() if part is network)


def _together(loras: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One LoRA whose ranks are those of all of them side by side: B·A is then the sum of theirs."""
    found: dict[str, list[Tensor]] = {}
    for weights in loras:
        for key, tensor in weights.items():
            found.setdefault(key, []).append(tensor)
    return {key: torch.cat(tensors, dim=0 if key.endswith(DOWN) else 1) for key, tensors in found.items()}
