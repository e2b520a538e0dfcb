"""The kernels of a layer, by where their operands are. All matrices are contiguous in rows."""

from types import ModuleType

import torch
from torch import Tensor

from r1pipe_kernels import backend

from . import reference


def _implementation(x: Tensor) -> ModuleType:
    if backend.choose(x) == "reference":
        return reference
    from . import triton_impl

    return triton_impl


def norm_forward(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return x [N, H] over its root mean square, times `weight` [H], in `dtype`; and 1 / RMS [N].

    arXiv 1910.07467, eq. 4, with `eps` added to the mean square.
    """
    return _implementation(x).norm_forward(x, weight, eps, dtype)


def norm_backward(
    grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, passing: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what the caller of `norm_forward` needs on the way back.

    `grad` [N, H]: of the norm's output; `scale`: 1 / RMS; `passing` [N, H]: of x where it went past
    the norm, in x's dtype. Returns the gradient of x (both summed, x's dtype), the same in grad's
    dtype, the norm's output in grad's dtype, and the gradient of `weight` [H] in float32.
    """
    return _implementation(x).norm_backward(grad, x, scale, weight, passing)


def gate_forward(both: Tensor) -> Tensor:
    """Return silu(a) * b of both [N, 2 I], a before b, as [N, I]."""
    return _implementation(both).gate_forward(both)


def gate_backward(grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of `both` [N, 2 I] from that of `gate_forward`'s result, and that result
    [N, I] again."""
    return _implementation(both).gate_backward(grad, both)
