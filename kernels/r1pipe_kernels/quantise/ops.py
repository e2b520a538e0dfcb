"""Quantisers as torch operators: traced by torch.compile, run by the backend of the device."""

from types import ModuleType

import torch
from torch import Tensor

from r1pipe_kernels import backend
from r1pipe_kernels.formats import (
    BLOCK,
    E4M3,
    blocks,
    empty_codes,
    empty_experts,
    empty_scales,
    require,
)

from . import reference

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def _implementation(x: Tensor) -> ModuleType:
    if backend.choose(x) == "reference":
        return reference
    from . import triton_impl

    return triton_impl


def _check(x: Tensor, name: str) -> None:
    if x.dim() != 2:
        raise ValueError(f"{name}: expected a matrix, got shape {tuple(x.shape)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"{name}: expected bf16, fp16 or fp32, got {x.dtype}")


@torch.library.custom_op("r1pipe::quantise_rows", mutates_args=())
def quantise_rows(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """x [M, K] -> E4M3 codes [M, K], fp32 scales [KB, M]; blocks of 1 x 128."""
    _check(x, "quantise_rows")
    return _implementation(x).quantise_rows(x, power_of_two)


def by_gluon(*tensors: Tensor) -> bool:
    """Whether the kernels with layouts written out take them: on Hopper, rows that copy in words.

    Where rows end inside a word Triton 3.6.0 stores codes byte by byte, and two of four came out
    wrong when the same codes were also transposed.
    """
    aligned = all(
        x.stride(-1) == 1 and x.stride(-2) % 16 == 0 and x.shape[-1] % 32 == 0 for x in tensors
    )
    return aligned and backend.choose(tensors[0]) == "gluon"


def check_pair(gate: Tensor, up: Tensor, name: str, dh: Tensor | None = None) -> None:
    """ValueError unless all are matrices of one shape."""
    for label, x in (("gate", gate), ("up", up), ("dh", gate if dh is None else dh)):
        _check(x, name)
        if x.shape != gate.shape:
            shapes = f"gate is {tuple(gate.shape)}, {label} {tuple(x.shape)}"
            raise ValueError(f"{name}: {shapes}; expected one shape")


@torch.library.custom_op("r1pipe::quantise_columns", mutates_args=())
def quantise_columns(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """x [M, K] -> codes [K, M], scales [MB, K]: 1 x 128 blocks of the transpose."""
    _check(x, "quantise_columns")
    if by_gluon(x):
        from . import gluon_nvidia

        return gluon_nvidia.columns(x, False, power_of_two)[2:]
    return _implementation(x).quantise_columns(x, power_of_two)


@torch.library.custom_op("r1pipe::quantise_both", mutates_args=())
def quantise_both(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantise_rows` and `quantise_columns` from one read of x."""
    _check(x, "quantise_both")
    if by_gluon(x):
        from . import gluon_nvidia

        return gluon_nvidia.columns(x, True, power_of_two)
    return _implementation(x).quantise_both(x, power_of_two)


@torch.library.custom_op("r1pipe::quantise_weight", mutates_args=())
def quantise_weight(w: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """w [N, K] -> codes [N, K], scales [NB, KB] and the same of the transpose; 128 x 128 blocks."""
    _check(w, "quantise_weight")
    if by_gluon(w):
        from . import gluon_nvidia

        return gluon_nvidia.quantise_weight(w, power_of_two)
    return _implementation(w).quantise_weight(w, power_of_two)


@torch.library.custom_op("r1pipe::quantise_weights", mutates_args=())
def quantise_weights(
    w: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """w [E, N, K] -> `quantise_weight` of every expert: [E, N, K], [E, NB, KB], [E, K, N] and
    [E, KB, NB]."""
    require(w.dim() == 3, f"quantise_weights: expected [E, N, K], got shape {tuple(w.shape)}")
    require(w.dtype in FLOATS, f"quantise_weights: expected bf16, fp16 or fp32, got {w.dtype}")
    if by_gluon(w) and w.stride(0) % 16 == 0:
        from . import gluon_nvidia

        return gluon_nvidia.quantise_weights(w, power_of_two)
    return _implementation(w).quantise_weights(w, power_of_two)


@torch.library.custom_op("r1pipe::silu_mul_quantise", mutates_args=())
def silu_mul_quantise(
    gate: Tensor, up: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantise_both` of silu(gate) * up, both [M, F], computed in fp32."""
    check_pair(gate, up, "silu_mul_quantise")
    if by_gluon(gate, up):
        from . import gluon_nvidia

        return gluon_nvidia.columns(gate, True, power_of_two, up)
    return _implementation(gate).silu_mul_quantise(gate, up, power_of_two)


@torch.library.custom_op("r1pipe::silu_mul_quantise_rows", mutates_args=())
def silu_mul_quantise_rows(
    gate: Tensor, up: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """`quantise_rows` of silu(gate) * up, both [M, F], computed in fp32."""
    check_pair(gate, up, "silu_mul_quantise_rows")
    return _implementation(gate).silu_mul_quantise_rows(gate, up, power_of_two)


@torch.library.custom_op("r1pipe::silu_mul_backward_quantise", mutates_args=())
def silu_mul_backward_quantise(
    dh: Tensor, gate: Tensor, up: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantise_both` of the gradients of silu(gate) * up for dh: [M, 2F], gate's left of up's."""
    check_pair(gate, up, "silu_mul_backward_quantise", dh)
    if by_gluon(gate, up, dh) and gate.shape[1] % BLOCK == 0:
        from . import gluon_nvidia

        return gluon_nvidia.columns(gate, True, power_of_two, up, dh)
    return _implementation(gate).silu_mul_backward_quantise(dh, gate, up, power_of_two)


def dequantise(
    codes: Tensor,
    scales: Tensor,
    block: tuple[int, int] = (BLOCK, BLOCK),
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """codes [R, C] times their scale; `scales` has one number per block, counted from the corner.

    Raises:
        ValueError: the grid of scales does not cover the codes.
    """
    need = tuple(-(-size // side) for size, side in zip(codes.shape, block, strict=True))
    require(codes.dtype == E4M3, f"dequantise: expected E4M3 codes, got {codes.dtype}")
    require(
        tuple(scales.shape) == need,
        f"dequantise: {tuple(codes.shape)} codes in blocks of {block} need {need} scales, "
        f"got {tuple(scales.shape)}",
    )
    codes = codes if codes.stride(1) == 1 else codes.contiguous()
    return _implementation(codes).dequantise(codes, scales, block, dtype)


def _both(m: int, k: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        empty_codes(m, k, like), empty_scales(blocks(k), m, like),
        empty_codes(k, m, like), empty_scales(blocks(m), k, like),
    )  # fmt: skip


@quantise_rows.register_fake
def _(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    m, k = x.shape
    return empty_codes(m, k, x), empty_scales(blocks(k), m, x)


@quantise_columns.register_fake
def _(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    m, k = x.shape
    return empty_codes(k, m, x), empty_scales(blocks(m), k, x)


@quantise_both.register_fake
def _(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _both(*x.shape, x)


@silu_mul_quantise.register_fake
def _(
    gate: Tensor, up: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _both(*gate.shape, gate)


@silu_mul_quantise_rows.register_fake
def _(gate: Tensor, up: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    return _both(*gate.shape, gate)[:2]


@silu_mul_backward_quantise.register_fake
def _(
    dh: Tensor, gate: Tensor, up: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _both(gate.shape[0], 2 * gate.shape[1], gate)


@quantise_weight.register_fake
def _(w: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, k = w.shape
    return (
        empty_codes(n, k, w), w.new_empty(blocks(n), blocks(k), dtype=torch.float32),
        empty_codes(k, n, w), w.new_empty(blocks(k), blocks(n), dtype=torch.float32),
    )  # fmt: skip


@quantise_weights.register_fake
def _(w: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    e, n, k = w.shape
    return (
        empty_experts(e, n, k, w), w.new_empty(e, blocks(n), blocks(k), dtype=torch.float32),
        empty_experts(e, k, n, w), w.new_empty(e, blocks(k), blocks(n), dtype=torch.float32),
    )  # fmt: skip
