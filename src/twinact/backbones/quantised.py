"""Linear layers whose frozen weights have 8 or 4 bits, so that a model fits into less memory while tokens are learned.

A layer computes in the precision of its input: its weights are spelled out for each use and thrown away, in backward
once more. Gradients go to the input alone, and are those of the rounded weights, exactly. It is plain torch: it needs
no library, runs on every device, and moves between devices as any module does.

int8 is one scale a row. nf4 is the 4-bit type of QLoRA (Dettmers et al., arXiv:2305.14314): the 16 values at which a
normal distribution is cut into equally likely parts, and one scale for each 64 weights of a row.
"""

import re
from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 64
# The values of QLoRA's appendix E.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
# Layers in numbered blocks are nearly all of a model; what lies before and after them is small and sensitive.
_IN_BLOCKS = re.compile(r"\.\d+\.")


class QuantisedLinear(nn.Linear):
    """A linear layer with frozen rounded weights.

    Attributes:
        weight: (out, in) int8, or (out, in / 2) two 4-bit codes in each; not what `nn.Linear` means by it.
        scale: (out, 1), or (out, in / 64); float32.
    """

    def __init__(self, linear: nn.Linear, kind: str, device: torch.device) -> None:
        """Rounds the weights of a layer on a device, where the new one is then.

        Args:
            linear: Is left as it is.
            kind: "int8" or "nf4"; rows that are no multiple of 64 long are always int8.
            device: Where to round.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().to(device, torch.float32)
        codes, scale = _to_nf4(weight) if kind == "nf4" and self.in_features % BLOCK == 0 else _to_int8(weight)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scale: Tensor
        self.register_buffer("scale", scale)
        bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().to(device), requires_grad=False)
        self.register_parameter("bias", bias)

    def forward(self, input: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return _Apply.apply(input, self.weight, self.scale, self.bias, self.in_features)

    def spelled_out(self) -> Float[Tensor, "o i"]:
        """The rounded weights in float32."""
        return _spelled_out(self.weight, self.scale, self.in_features, torch.float32)


def quantise(network: nn.Module, kind: str, device: torch.device) -> None:
    """Rounds the weights of all linear layers in a network's blocks, and puts these layers onto a device, one by one.

    Args:
        network: Frozen, in the machine's memory or on the device.
        kind: "int8" or "nf4".
        device: Where the layers are to be; the rest of the network stays where it is.
    """
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if type(module) is nn.Linear and _IN_BLOCKS.search(f".{name}.")
    ]
    for name, module in layers:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, QuantisedLinear(module, kind, device))


class _Apply(torch.autograd.Function):
    """x · Wᵀ + b with the weights spelled out twice, so that nothing of their size is kept in between."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None, columns: int) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.dtype, ctx.columns = input.dtype, columns
        weight = _spelled_out(codes, scale, columns, input.dtype)
        return F.linear(input, weight, None if bias is None else bias.to(input.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        codes, scale = ctx.saved_tensors
        towards_input = gradient @ _spelled_out(codes, scale, ctx.columns, gradient.dtype)
        return towards_input.to(ctx.dtype), None, None, None, None


def _to_int8(weight: Float[Tensor, "o i"]) -> tuple[Int8[Tensor, "o i"], Float[Tensor, "o 1"]]:
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (weight / scale).round().to(torch.int8), scale


def _to_nf4(weight: Float[Tensor, "o i"]) -> tuple[Int8[Tensor, "o j"], Float[Tensor, "o k"]]:
    blocks = weight.unflatten(1, (-1, BLOCK))  # o k 64
    scale = blocks.abs().amax(dim=2).clamp_min(torch.finfo(torch.float32).tiny)  # o k
    values = torch.tensor(NF4, device=weight.device)
    between = (values[1:] + values[:-1]) / 2
    codes = torch.bucketize((blocks / scale[..., None]).flatten(1), between).to(torch.uint8)  # o i
    # As int8: T5 asks for the type of a layer's weights, and leaves its input alone only if they are that.
    return (codes[:, ::2] * 16 + codes[:, 1::2]).view(torch.int8), scale


def _spelled_out(
    codes: Int8[Tensor, "o j"], scale: Float[Tensor, "o k"], columns: int, dtype: torch.dtype
) -> Float[Tensor, "o i"]:
    if codes.shape[1] == columns:
        return codes.to(dtype) * scale.to(dtype)
    values = torch.tensor(NF4, device=codes.device, dtype=dtype)
    pairs = torch.cartesian_prod(values, values)  # 256 2, in the order of the bytes
    weight = F.embedding(codes.view(torch.uint8).int(), pairs).flatten(1)  # o i
    return (weight.unflatten(1, (-1, BLOCK)) * scale.to(dtype)[..., None]).flatten(1)
