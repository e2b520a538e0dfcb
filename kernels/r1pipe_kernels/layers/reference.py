"""What the kernels of a layer compute, in torch; float32 inside, rounded once."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
    a, b = both.float().chunk(2, dim=1)
    return (F.silu(a) * b).to(both.dtype)


def gate_backward(grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    a, b = both.float().chunk(2, dim=1)
    sigmoid, wide = torch.sigmoid(a), grad.float()
    slope = sigmoid * (1 + a * (1 - sigmoid))
    found = torch.cat([wide * b * slope, wide * a * sigmoid], dim=1)
    return found.to(both.dtype), (a * sigmoid * b).to(both.dtype)
