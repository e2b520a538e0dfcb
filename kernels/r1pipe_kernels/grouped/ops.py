"""Grouped FP8 products of experts as torch operators; counts stay on the device.

T tokens lie sorted by expert, without padding: expert e owns rows `offsets[e] : offsets[e + 1]`
(int32 [E + 1], from 0 to T); any expert may own none.

    forward          grouped_gemm(x [T, K], w [E, N, K])                     -> [T, N]
    gradient of x    grouped_gemm(dy [T, N], transposed w [E, K, N])         -> [T, K]
    gradient of w    grouped_gemm_reduce(dy by columns, x by columns)         -> [E, N, K]
"""

from types import ModuleType

import torch
from torch import Tensor

from r1pipe_kernels import backend
from r1pipe_kernels.formats import (
    BLOCK,
    E4M3,
    blocks,
    empty_codes,
    empty_scales,
    max_blocks,
    max_columns,
    require,
)
from r1pipe_kernels.quantise.ops import by_gluon, check_pair
from r1pipe_kernels.repeats import Repeats

from . import reference

_repeats = Repeats()


def _implementation(x: Tensor) -> ModuleType:
    if backend.choose(x) == "reference":
        return reference
    from . import triton_impl

    return triton_impl


def _check_offsets(name: str, offsets: Tensor, groups: int) -> None:
    if offsets.dtype != torch.int32 or offsets.shape != (groups + 1,):
        got = f"{offsets.dtype} {tuple(offsets.shape)}"
        raise ValueError(f"{name}: offsets must be int32 [{groups + 1}], got {got}")


@torch.library.custom_op("r1pipe::grouped_quantise_columns", mutates_args=())
def quantise_columns(
    x: Tensor, offsets: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """x [T, K] -> codes [K, up to T + 15 E], scales [T // 128 + E, K]; blocks start anew with every
    group, columns at its next multiple of 16."""
    _check_offsets("grouped_quantise_columns", offsets, offsets.numel() - 1)
    if by_gluon(x):
        from r1pipe_kernels.quantise import gluon_nvidia

        return gluon_nvidia.columns(x, False, power_of_two, offsets=offsets)[2:]
    return _implementation(x).quantise_columns(x, offsets, power_of_two)


@torch.library.custom_op("r1pipe::grouped_quantise_both", mutates_args=())
def quantise_both(
    x: Tensor, offsets: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [T, K] -> codes [T, K], scales [KB, T], and `quantise_columns`, from one read."""
    _check_offsets("grouped_quantise_both", offsets, offsets.numel() - 1)
    if by_gluon(x):
        from r1pipe_kernels.quantise import gluon_nvidia

        return gluon_nvidia.columns(x, True, power_of_two, offsets=offsets)
    return _implementation(x).quantise_both(x, offsets, power_of_two)


@torch.library.custom_op("r1pipe::grouped_silu_mul_quantise", mutates_args=())
def silu_mul_quantise(
    gate: Tensor, up: Tensor, offsets: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantise_both` of silu(gate) * up, both [T, F], computed in fp32."""
    check_pair(gate, up, "grouped_silu_mul_quantise")
    _check_offsets("grouped_silu_mul_quantise", offsets, offsets.numel() - 1)
    if by_gluon(gate, up):
        from r1pipe_kernels.quantise import gluon_nvidia

        return gluon_nvidia.columns(gate, True, power_of_two, up, offsets=offsets)
    return _implementation(gate).silu_mul_quantise(gate, up, offsets, power_of_two)


@torch.library.custom_op("r1pipe::grouped_silu_mul_backward_quantise", mutates_args=())
def silu_mul_backward_quantise(
    dh: Tensor, gate: Tensor, up: Tensor, offsets: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantise_both` of the gradients of silu(gate) * up for dh: [T, 2F], gate's left of up's."""
    check_pair(gate, up, "grouped_silu_mul_backward_quantise", dh)
    _check_offsets("grouped_silu_mul_backward_quantise", offsets, offsets.numel() - 1)
    if by_gluon(gate, up, dh) and gate.shape[1] % BLOCK == 0:
        from r1pipe_kernels.quantise import gluon_nvidia

        return gluon_nvidia.columns(gate, True, power_of_two, up, dh, offsets)
    run = _implementation(gate).silu_mul_backward_quantise
    return run(dh, gate, up, offsets, power_of_two)


@torch.library.custom_op("r1pipe::grouped_gemm", mutates_args=())
def grouped_gemm(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    """a [T, K], scales [KB, T]; b [E, N, K], scales [E, NB, KB] -> [T, N], row by its expert."""
    name = "grouped_gemm"
    (tokens, k), (groups, n, _) = a.shape, b.shape
    c = a.new_empty_strided((tokens, n), (-(-n // 8) * 8, 1), dtype=dtype)
    tensors, key = (a, a_scales, b, b_scales, c, offsets), None
    if backend.choose(a) == "gluon":
        key = _repeats.key(tensors, name)
        if _repeats.launched(key, tensors):
            return c
    _check_offsets(name, offsets, groups)
    require(a.dtype == E4M3 and b.dtype == E4M3, f"{name}: a and b must hold E4M3 codes")
    require(b.shape[2] == k, f"{name}: a has {k} columns, b {b.shape[2]}")
    require(
        b.stride(2) == 1 and b.stride(1) % 16 == 0 and b.stride(0) == n * b.stride(1),
        f"{name}: experts of b must follow each other, rows at multiples of 16 bytes",
    )
    require(
        a.stride(1) == 1 and a.stride(0) % 16 == 0, f"{name}: rows of a must be 16-byte aligned"
    )
    require(tuple(a_scales.shape) == (blocks(k), tokens), f"{name}: scales of a must be [KB, T]")
    require(
        tuple(b_scales.shape) == (groups, blocks(n), blocks(k)) and b_scales.is_contiguous(),
        f"{name}: scales of b must be contiguous [E, NB, KB]",
    )
    if 0 in c.shape:
        return c
    if backend.choose(a) == "gluon":
        from . import launch

        _repeats.keep(key, launch.gemm(*tensors))
        return c
    return c.copy_(reference.gemm(a, a_scales, b, b_scales, offsets))


def _check_reduce(name: str, shape: tuple[int, ...], a: Tensor, b: Tensor, offsets: Tensor) -> None:
    _check_offsets(name, offsets, shape[0])
    require(a.dtype == E4M3 and b.dtype == E4M3, f"{name}: a and b must hold E4M3 codes")
    require(
        (a.shape[0], b.shape[0]) == shape[1:] and a.shape[1] == b.shape[1],
        f"{name}: {tuple(a.shape)} and {tuple(b.shape)} do not give {tuple(shape[1:])}",
    )


def _reduce(
    c: Tensor, a: Tensor, a_s: Tensor, b: Tensor, b_s: Tensor, offsets: Tensor, add: bool
) -> None:
    tensors, key = (a, a_s, b, b_s, c, offsets), None
    if backend.choose(a) == "gluon":
        key = _repeats.key(tensors, "reduce", add)
        if _repeats.launched(key, tensors):
            return
    if 0 in c.shape:
        return
    if a.shape[1] == 0:
        if not add:
            c.zero_()
        return
    if backend.choose(a) == "gluon":
        from . import launch

        _repeats.keep(key, launch.gemm_reduce(*tensors, add))
        return
    product = reference.gemm_reduce(a, a_s, b, b_s, offsets)
    c.copy_(c + product if add else product)


@torch.library.custom_op("r1pipe::grouped_gemm_reduce", mutates_args=())
def grouped_gemm_reduce(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    """a[:, group] @ b[:, group].T -> [E, M, N] in bf16 or fp32; operands of `quantise_columns`."""
    shape = (offsets.shape[0] - 1, a.shape[0], b.shape[0])
    _check_reduce("grouped_gemm_reduce", shape, a, b, offsets)
    c = a.new_empty(shape, dtype=dtype)
    _reduce(c, a, a_scales, b, b_scales, offsets, add=False)
    return c


@torch.library.custom_op("r1pipe::grouped_gemm_reduce_into", mutates_args=("c",))
def grouped_gemm_reduce_into(
    c: Tensor, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor
) -> None:
    """Add `grouped_gemm_reduce` to c [E, M, N] in fp32; results below 2^-126 count as zero."""
    name = "grouped_gemm_reduce_into"
    _check_reduce(name, tuple(c.shape), a, b, offsets)
    require(
        c.dtype == torch.float32 and c.stride(2) == 1, f"{name}: c must be fp32, rows contiguous"
    )
    _reduce(c, a, a_scales, b, b_scales, offsets, add=True)


@quantise_columns.register_fake
def _(x: Tensor, offsets: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    return _both(*x.shape, offsets, x)[2:]


def _both(
    tokens: int, k: int, offsets: Tensor, like: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    groups = offsets.shape[0] - 1
    return (
        empty_codes(tokens, k, like), empty_scales(blocks(k), tokens, like),
        empty_codes(k, max_columns(tokens, groups), like),
        empty_scales(max_blocks(tokens, groups), k, like),
    )  # fmt: skip


@quantise_both.register_fake
def _(
    x: Tensor, offsets: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _both(*x.shape, offsets, x)


@silu_mul_quantise.register_fake
def _(
    gate: Tensor, up: Tensor, offsets: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _both(*gate.shape, offsets, gate)


@silu_mul_backward_quantise.register_fake
def _(
    dh: Tensor, gate: Tensor, up: Tensor, offsets: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _both(gate.shape[0], 2 * gate.shape[1], offsets, gate)


@grouped_gemm_reduce.register_fake
def _(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    return a.new_empty((offsets.shape[0] - 1, a.shape[0], b.shape[0]), dtype=dtype)


@grouped_gemm.register_fake
def _(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    n = b.shape[1]
    return a.new_empty_strided((a.shape[0], n), (-(-n // 8) * 8, 1), dtype=dtype)


@grouped_gemm_reduce_into.register_fake
def _(c: Tensor, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor) -> None:
    return None
