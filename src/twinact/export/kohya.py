"""Translates LoRA layers of transformers into the names of kohya's scripts, and back.

The names are those of the original code, in one word, as ComfyUI and Forge read them too. That code has one layer where
diffusers has three or four (queries, keys, values and, in single blocks, the first half of the MLP), and a LoRA of it
has the ranks of all of them side by side:

    down = [A_q; A_k; A_v]    up = diag(B_q, B_k, B_v)    alpha = 3 r

so that up · down holds B_q · A_q above B_k · A_k above B_v · A_v, to the last bit. A layer that is not adapted gets
zeros of the same rank: kohya's scripts and diffusers take apart what has equal parts. What was learned in one piece is
not block-diagonal; then each layer gets the whole down and its own rows of up.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from twinact.backbones.backbone import Backbone
from twinact.errors import CheckpointError, ConfigError
from twinact.export.target import CHROMA, FLUX, FLUX2, SD3, Z_IMAGE
from twinact.lora import DOWN, UP

_MLP_RATIO = 4  # of FLUX's single blocks


def _stream(block: str, names: str) -> dict[str, tuple[str, ...]]:
    """Rows "original: layer layer …" of a table, all inside of one block; # is its number."""
    original, _, own = block.partition(" ")
    rows = (row.partition(":") for row in names.split(";"))
    return {f"{original}.{name.strip()}": tuple(f"{own}.{layer}" for layer in ls.split()) for name, _, ls in rows}


_QKV, _ADDED = "attn.to_q attn.to_k attn.to_v", "attn.add_q_proj attn.add_k_proj attn.add_v_proj"
_TIME_AND_TEXT = "time_text_embed.{}_embedder.linear_{}".format
# The attention and the MLPs of FLUX.1, which Chroma has kept.
_FLUX_BLOCKS = {
    **_stream(
        "double_blocks.# transformer_blocks.#",
        f"img_attn.qkv: {_QKV}; img_attn.proj: attn.to_out.0; img_mlp.0: ff.net.0.proj; img_mlp.2: ff.net.2;"
        f"txt_attn.qkv: {_ADDED}; txt_attn.proj: attn.to_add_out;"
        "txt_mlp.0: ff_context.net.0.proj; txt_mlp.2: ff_context.net.2",
    ),
    **_stream("single_blocks.# single_transformer_blocks.#", f"linear1: {_QKV} proj_mlp; linear2: proj_out"),
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "final_layer.linear": ("proj_out",),
}
_Z_IMAGE_BLOCK = "attention.qkv: {}; attention.out: attention.to_out.0".format(_QKV.replace("attn", "attention"))
# Name in the original code -> layers of diffusers, in the order of its rows.
_TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    FLUX: {
        **_FLUX_BLOCKS,
        **_stream(
            "double_blocks.# transformer_blocks.#", "img_mod.lin: norm1.linear; txt_mod.lin: norm1_context.linear"
        ),
        **_stream("single_blocks.# single_transformer_blocks.#", "modulation.lin: norm.linear"),
        **{
            f"{original}_in.{way}_layer": (_TIME_AND_TEXT(own, number),)
            for original, own in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance"))
            for way, number in (("in", 1), ("out", 2))
        },
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    },
    CHROMA: _FLUX_BLOCKS,
    Z_IMAGE: {
        name: layers
        for block in ("layers", "noise_refiner", "context_refiner")
        for name, layers in _stream(f"{block}.# {block}.#", _Z_IMAGE_BLOCK).items()
    },
    FLUX2: {
        **_stream(
            "double_blocks.# transformer_blocks.#",
            f"img_attn.qkv: {_QKV}; img_attn.proj: attn.to_out.0; img_mlp.0: ff.linear_in; img_mlp.2: ff.linear_out;"
            f"txt_attn.qkv: {_ADDED}; txt_attn.proj: attn.to_add_out;"
            "txt_mlp.0: ff_context.linear_in; txt_mlp.2: ff_context.linear_out",
        ),
        **_stream("single_blocks.# single_transformer_blocks.#", "linear1: attn.to_qkv_mlp_proj; linear2: attn.to_out"),
        "img_in": ("x_embedder",),
        "txt_in": ("context_embedder",),
        "time_in.in_layer": ("time_guidance_embed.timestep_embedder.linear_1",),
        "time_in.out_layer": ("time_guidance_embed.timestep_embedder.linear_2",),
        **{
            f"{kind}_modulation{stream}.lin": (f"{kind}_modulation{stream}.linear",)
            for kind, stream in (("double_stream", "_img"), ("double_stream", "_txt"), ("single_stream", ""))
        },
        "final_layer.linear": ("proj_out",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    },
    SD3: {
        **_stream(
            "joint_blocks.#.x_block transformer_blocks.#",
            f"attn.qkv: {_QKV}; attn.proj: attn.to_out.0; adaLN_modulation.1: norm1.linear;"
            f"attn2.qkv: {_QKV.replace('attn', 'attn2')}; attn2.proj: attn2.to_out.0;"
            "mlp.fc1: ff.net.0.proj; mlp.fc2: ff.net.2",
        ),
        **_stream(
            "joint_blocks.#.context_block transformer_blocks.#",
            f"attn.qkv: {_ADDED}; attn.proj: attn.to_add_out; adaLN_modulation.1: norm1_context.linear;"
            "mlp.fc1: ff_context.net.0.proj; mlp.fc2: ff_context.net.2",
        ),
        "context_embedder": ("context_embedder",),
        "x_embedder.proj": ("pos_embed.proj",),
        **{
            f"{original}_embedder.mlp.{place}": (_TIME_AND_TEXT(own, number),)
            for original, own in (("t", "timestep"), ("y", "text"))
            for place, number in ((0, 1), (2, 2))
        },
        "final_layer.linear": ("proj_out",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    },
}
_PLACES = {
    family: {layer: (original, place) for original, layers in table.items() for place, layer in enumerate(layers)}
    for family, table in _TABLES.items()
}
# Their scale comes before their shift in diffusers, after it in the original code, if they have no more than the two.
_SWAPPED = re.compile(r"(norm1_context|norm_out)\.linear$")
_BLOCK = re.compile(r"(?<=blocks\.)\d+(?=\.)|(?<=layers\.)\d+(?=\.)|(?<=refiner\.)\d+(?=\.)")
_HALF = re.compile(r"\.(lora_(?:down|up|A|B))\.weight$")
_ORIGINAL = "original"
# How names of other tools begin, in one word -> the part that they are for.
_PARTS = {
    "lora_unet_": _ORIGINAL, "diffusion_model_": _ORIGINAL,  # kohya, ComfyUI
    "lora_transformer_": "transformer",  # OneTrainer
    "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2",
    "text_encoders_clip_l_transformer_": "text_encoder", "text_encoders_clip_g_transformer_": "text_encoder_2",
}  # fmt: skip


def knows(key: str) -> bool:
    """Whether a key is spelled in a way that `read` reads."""
    return _HALF.search(key) is not None and key.replace(".", "_").startswith(tuple(_PARTS))


def fused(weights: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """A LoRA of a transformer under kohya's names, with alphas.

    Args:
        weights: As `twinact.lora` has it, all layers of the same rank r.
        family: One of those with a table here.

    Raises:
        ConfigError: It adapts a layer that the original code does not have.
    """
    found: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    for name in (key.removesuffix(DOWN) for key in weights if key.endswith(DOWN)):
        layer = name.partition(".")[2]
        place = _place(layer, family)
        if place is None:
            raise ConfigError(f"LoRA adapts {name!r}, which cannot be written in kohya's layout")
        found.setdefault(place[0], {})[place[1]] = _as_swapped(layer, weights[name + DOWN], weights[name + UP])
    tensors: dict[str, Tensor] = {}
    for original, parts in found.items():
        down, up = _joined(_TABLES[family][_BLOCK.sub("#", original, count=1)], parts)
        flat = f"lora_unet_{original}".replace(".", "_")
        tensors[f"{flat}.lora_down.weight"], tensors[f"{flat}.lora_up.weight"] = down, up
        tensors[f"{flat}.alpha"] = torch.tensor(float(len(down)))
    return tensors


def dotted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA of Z-Image under the names of ai-toolkit, with alphas: ComfyUI and diffusers read no others both.

    Args:
        weights: As `twinact.lora` has it.
    """
    tensors = {}
    for name in (key.removesuffix(DOWN) for key in weights if key.endswith(DOWN)):
        theirs = f"diffusion_model.{name.partition('.')[2]}"
        tensors[theirs + DOWN], tensors[theirs + UP] = weights[name + DOWN], weights[name + UP]
        tensors[f"{theirs}.alpha"] = torch.tensor(float(len(weights[name + DOWN])))
    return tensors


def read(tensors: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """A LoRA under the names of kohya, ComfyUI or OneTrainer as `twinact.lora` has it; alphas are multiplied in before.

    Raises:
        ValueError: A key names no layer of the model, or one that has been named before.
        CheckpointError: A layer of the original code has another size than those of the model have together.
    """
    names = _names(backbone)
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _HALF.search(key)
        if match is None:
            raise ValueError(f"{key} is no layer of the model")
        halves.setdefault(key[: match.start()], {})[DOWN if match[1] in ("lora_down", "lora_A") else UP] = tensor
    state: dict[str, Tensor] = {}
    for name, pair in halves.items():
        flat = name.replace(".", "_")
        start = next((start for start in _PARTS if flat.startswith(start)), "")
        part, layers = _PARTS.get(start), None
        if part is not None:
            layers = names.get((part, flat.removeprefix(start).removeprefix("text_model_")))
        if layers is None or len(pair) < 2:
            raise ValueError(f"{name} is no layer of the model" if layers is None else f"{name} lacks its other half")
        for layer, down, up in _apart(name, layers, pair[DOWN], pair[UP]):
            if layer + DOWN in state:
                raise ValueError(f"{name} is {layer}, which has another name here, too")
            state[layer + DOWN], state[layer + UP] = _as_swapped(layer, down, up) if part == _ORIGINAL else (down, up)
    return state


def _place(layer: str, family: str) -> tuple[str, int] | None:
    """The original name of a layer of diffusers, and which of its parts it is."""
    number = _BLOCK.search(layer)
    found = _PLACES[family].get(_BLOCK.sub("#", layer, count=1))
    return found and (found[0].replace("#", number[0] if number else "#"), found[1])


def _names(backbone: Backbone) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """(part, name in one word) -> (layer, its rows) of all that it stands for, also in the original code."""
    pipeline = backbone.pipeline()
    found: dict[tuple[str, str], dict[int, tuple[str, int]]] = {}
    for part in pipeline._lora_loadable_modules:
        network = getattr(pipeline, part, None)
        for name, module in network.named_modules() if isinstance(network, nn.Module) else ():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            layer = f"{part}.{name}", module.weight.shape[0]
            found[part, name.removeprefix("text_model.").replace(".", "_")] = {0: layer}
            place = _place(name, type(pipeline).__name__) if part == "transformer" else None
            if place is not None:
                found.setdefault((_ORIGINAL, place[0].replace(".", "_")), {})[place[1]] = layer
            if type(pipeline).__name__ == Z_IMAGE:  # tools name its layers in both ways
                found.setdefault((_ORIGINAL, name.replace(".", "_")), {0: layer})
    return {name: [layer for _, layer in sorted(layers.items())] for name, layers in found.items()}


def _joined(layers: Sequence[str], parts: Mapping[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One LoRA of the layers together; one that is missing has as many rows as columns, the MLP four times as many."""
    if len(layers) == 1:
        return parts[0]
    given = next(iter(parts.values()))[0]
    rank, columns = given.shape
    downs, ups = [], []
    for place, layer in enumerate(layers):
        rows = columns * (_MLP_RATIO if layer.endswith("proj_mlp") else 1)
        down, up = parts.get(place) or (given.new_zeros(rank, columns), given.new_zeros(rows, rank))
        downs.append(down)
        ups.append(up)
    return torch.cat(downs), torch.block_diag(*ups)


def _apart(
    name: str, layers: Sequence[tuple[str, int]], down: Tensor, up: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The LoRA of each layer; layers that it leaves as they are, such as those that `fused` filled in, are left out."""
    if len(layers) == 1:
        yield layers[0][0], down, up
        return
    rows = [count for _, count in layers]
    if up.ndim != 2 or len(up) != sum(rows) or up.shape[1] != len(down):
        raise CheckpointError(
            f"LoRA of {name!r} is {tuple(up.shape)} times {tuple(down.shape)} and the model's layers have "
            f"{sum(rows)} rows: it was made for another model"
        )
    rank, rest = divmod(len(down), len(rows))
    ups, own = up.split(rows), [slice(place * rank, (place + 1) * rank) for place in range(len(rows))]
    in_blocks = not rest and all(
        not part[:, : mine.start].any() and not part[:, mine.stop :].any() for part, mine in zip(ups, own, strict=True)
    )
    empty = not up.any()
    for (layer, _), part, mine in zip(layers, ups, own, strict=True):
        if empty or part.any():
            yield layer, *((down[mine], part[:, mine]) if in_blocks else (down, part))


def _as_swapped(layer: str, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """With scale and shift in the other order where the two codes differ: norms of no more than these two."""
    if _SWAPPED.search(layer) and len(up) == 2 * down.shape[1]:
        up = torch.cat(up.chunk(2)[::-1])
    return down, up
