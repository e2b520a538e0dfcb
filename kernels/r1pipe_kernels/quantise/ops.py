"""Quantisers as torch operators: traced by torch.compile, run by the backend of the device."""

from types import ModuleType

import torch
from torch import Tensor

from r1pipe_kernels import backend
from r1pipe_kernels.formats import BLOCK, E4M3, blocks, empty_codes, empty_scales, require

from . import reference

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def _implementation(x: Tensor) -> ModuleType:
    if backend.choose(x) == "reference":
        return reference
    from . import triton_impl

    return triton_impl


def _check(x: Tensor, name: str) -> None:
    require(x.dim() == 2, f"{name}: expected a matrix, got shape {tuple(x.shape)}")
    require(x.dtype in FLOATS, f"{name}: expected bf16, fp16 or fp32, got {x.dtype}")


@torch.library.custom_op("r1pipe::quantise_rows", mutates_args=())
def quantise_rows(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """x [M, K] -> E4M3 codes [M, K], fp32 scales [KB, M]; blocks of 1 x 128."""
    _check(x, "quantise_rows")
    return _implementation(x).quantise_rows(x, power_of_two)


def _by_gluon(x: Tensor) -> bool:
    """Whether the kernels with layouts written out take x: on Hopper, rows that copy in words.

    Where rows end inside a word Triton 3.6.0 stores codes byte by byte, and two of four came out
    wrong when the same codes were also transposed.
    """
    aligned = x.stride(1) == 1 and x.stride(0) % 16 == 0 and x.shape[1] % 32 == 0
    return aligned and backend.choose(x) == "gluon"


@torch.library.custom_op("r1pipe::quantise_columns", mutates_args=())
def quantise_columns(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """x [M, K] -> codes [K, M], scales [MB, K]: 1 x 128 blocks of the transpose."""
    _check(x, "quantise_columns")
    if _by_gluon(x):
        from . import gluon_nvidia

        return gluon_nvidia.columns(x, False, False, power_of_two)[2:]
    return _implementation(x).quantise_columns(x, power_of_two)


@torch.library.custom_op("r1pipe::quantise_both", mutates_args=())
def quantise_both(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantise_rows` and `quantise_columns` from one read of x."""
    _check(x, "quantise_both")
    if _by_gluon(x):
        from . import gluon_nvidia

        return gluon_nvidia.columns(x, True, False, power_of_two)
    return _implementation(x).quantise_both(x, power_of_two)


@torch.library.custom_op("r1pipe::quantise_weight", mutates_args=())
def quantise_weight(w: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """w [N, K] -> codes [N, K], scales [NB, KB] and the same of the transpose; 128 x 128 blocks."""
    _check(w, "quantise_weight")
    if _by_gluon(w):
        from . import gluon_nvidia

        return gluon_nvidia.quantise_weight(w, power_of_two)
    return _implementation(w).quantise_weight(w, power_of_two)


@torch.library.custom_op("r1pipe::silu_mul_quantise", mutates_args=())
def silu_mul_quantise(
    gate_up: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantise_both` of silu(gate) * up for gate_up [M, 2F], computed in fp32."""
    _check(gate_up, "silu_mul_quantise")
    require(gate_up.shape[1] % 2 == 0, "silu_mul_quantise: the width must be even")
    if _by_gluon(gate_up):
        from . import gluon_nvidia

        return gluon_nvidia.columns(gate_up, True, True, power_of_two)
    return _implementation(gate_up).silu_mul_quantise(gate_up, power_of_two)


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
    m, k = x.shape
    return (
        empty_codes(m, k, x), empty_scales(blocks(k), m, x),
        empty_codes(k, m, x), empty_scales(blocks(m), k, x),
    )  # fmt: skip


@silu_mul_quantise.register_fake
def _(gate_up: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    m, k = gate_up.shape[0], gate_up.shape[1] // 2
    return (
        empty_codes(m, k, gate_up), empty_scales(blocks(k), m, gate_up),
        empty_codes(k, m, gate_up), empty_scales(blocks(m), k, gate_up),
    )  # fmt: skip


@quantise_weight.register_fake
def _(w: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, k = w.shape
    return (
        empty_codes(n, k, w), w.new_empty(blocks(n), blocks(k), dtype=torch.float32),
        empty_codes(k, n, w), w.new_empty(blocks(k), blocks(n), dtype=torch.float32),
    )  # fmt: skip
