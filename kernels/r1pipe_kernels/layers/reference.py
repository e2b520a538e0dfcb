"""What the kernels of a layer compute, in torch; float32 inside, rounded once."""

import torch
from torch import Tensor

from r1pipe_kernels.quantise.reference import silu_mul, silu_mul_backward


def norm_forward(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(1) + eps)
    return (wide * scale[:, None] * weight.float()).to(dtype), scale


def norm_backward(
    grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, passing: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide, unit = grad.float() * weight.float(), x.float() * scale[:, None]
    inner = (wide * unit).mean(1, keepdim=True)
    total = passing.float() + scale[:, None] * (wide - unit * inner)
    again = (unit * weight.float()).to(grad.dtype)
    return total.to(x.dtype), total.to(grad.dtype), again, (grad.float() * unit).sum(0)


def gate_forward(both: Tensor) -> Tensor:
    return silu_mul(*both.chunk(2, dim=1)).to(both.dtype)


def gate_backward(grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    found = silu_mul_backward(grad, *both.chunk(2, dim=1))
    return found.to(both.dtype), gate_forward(both)
