"""Which implementation runs: Gluon on Hopper, Triton on other GPUs, torch elsewhere."""

import os
from functools import cache
from typing import Any, Literal

import torch

Backend = Literal["gluon", "triton", "reference"]
VARIABLE = "R1PIPE_KERNELS_BACKEND"


@cache
def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def forced() -> str | None:
    """What R1PIPE_KERNELS_BACKEND says."""
    return os.environ.get(VARIABLE)


def choose(tensor: torch.Tensor) -> Backend:
    """The backend for operands like `tensor`; R1PIPE_KERNELS_BACKEND forces one.

    Raises:
        ValueError: the variable names no backend.
    """
    if name := forced():
        if name not in ("gluon", "triton", "reference"):
            raise ValueError(f"{VARIABLE}={name!r}: expected gluon, triton or reference")
        return name  # type: ignore[return-value]
    if tensor.device.type != "cuda" or not _has_triton():
        return "reference"
    major, _ = _capability(tensor.device.index or 0)
    return "gluon" if major == 9 else "triton"


def run(operator: Any, *args: Any) -> Any:
    """Call an operator that writes to none of its inputs, past torch's dispatcher where it may.

    The dispatcher takes tens of microseconds of the host a call, and small layers have nothing to
    hide them behind. Compilers, fake tensors and modes (FLOP counters, selective checkpointing)
    need it.
    """
    plain = type(args[0]) in (torch.Tensor, torch.nn.Parameter)
    if torch.compiler.is_compiling() or not plain or torch._C._len_torch_dispatch_stack():
        return operator(*args)
    return getattr(operator, "_init_fn", operator)(*args)
