"""Grouped FP8 products of experts as torch operators; counts stay on the device.

T tokens lie sorted by expert, without padding: expert e owns rows `offsets[e] : offsets[e + 1]`
(int32 [E + 1], from 0 to T); any expert may own none.

    forward          grouped_gemm(x [T, K], w [E, N, K])                     -> [T, N]
    gradient of x    grouped_gemm(dy [T, N], transposed w [E, K, N])         -> [T, K]
    gradient of w    grouped_gemm_reduce_into(dw [E, N, K], dy, x by columns)
"""

import torch
from torch import Tensor

from r1pipe_kernels import backend
from r1pipe_kernels.formats import E4M3, blocks, empty_codes, require

from . import reference


def _check_offsets(name: str, offsets: Tensor, groups: int) -> None:
    require(
        offsets.dtype == torch.int32 and tuple(offsets.shape) == (groups + 1,),
        f"{name}: offsets must be int32 [{groups + 1}], got {offsets.dtype} {tuple(offsets.shape)}",
    )


@torch.library.custom_op("r1pipe::grouped_quantise_columns", mutates_args=())
def quantise_columns(
    x: Tensor, offsets: Tensor, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """x [T, K] -> codes [K, up to T + 15 E], scales [T // 128 + E, K]; blocks start anew with every
    group, columns at its next multiple of 16."""
    _check_offsets("grouped_quantise_columns", offsets, offsets.numel() - 1)
    if backend.choose(x) == "reference":
        return reference.quantise_columns(x, offsets, power_of_two)
    from . import triton_impl

    return triton_impl.quantise_columns(x, offsets, power_of_two)


@torch.library.custom_op("r1pipe::grouped_gemm", mutates_args=())
def grouped_gemm(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    """a [T, K], scales [KB, T]; b [E, N, K], scales [E, NB, KB] -> [T, N], row by its expert."""
    name = "grouped_gemm"
    (tokens, k), (groups, n, _) = a.shape, b.shape
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
    c = a.new_empty_strided((tokens, n), (-(-n // 8) * 8, 1), dtype=dtype)
    if 0 in c.shape:
        return c
    if backend.choose(a) == "gluon":
        from . import launch

        launch.gemm(a, a_scales, b, b_scales, c, offsets)
        return c
    return c.copy_(reference.gemm(a, a_scales, b, b_scales, offsets))


@torch.library.custom_op("r1pipe::grouped_gemm_reduce_into", mutates_args=("c",))
def grouped_gemm_reduce_into(
    c: Tensor, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor
) -> None:
    """Add a[:, group] @ b[:, group].T to c [E, M, N] (fp32); operands of `quantise_columns`."""
    name = "grouped_gemm_reduce_into"
    groups, m, n = c.shape
    _check_offsets(name, offsets, groups)
    require(
        c.dtype == torch.float32 and c.stride(2) == 1, f"{name}: c must be fp32, rows contiguous"
    )
    require(
        a.shape[0] == m and b.shape[0] == n and a.shape[1] == b.shape[1],
        f"{name}: {tuple(a.shape)} and {tuple(b.shape)} do not give {tuple(c.shape[1:])}",
    )
    if a.shape[1] == 0 or 0 in c.shape:
        return
    if backend.choose(a) == "gluon":
        from . import launch

        launch.gemm_reduce(a, a_scales, b, b_scales, c, offsets, add=True)
        return
    c += reference.gemm_reduce(a, a_scales, b, b_scales, offsets)


@quantise_columns.register_fake
def _(x: Tensor, offsets: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    (tokens, k), groups = x.shape, offsets.shape[0] - 1
    rows = reference.max_blocks(tokens, groups)
    scales = x.new_empty_strided((rows, k), (-(-k // 4) * 4, 1), dtype=torch.float32)
    return empty_codes(k, reference.max_columns(tokens, groups), x), scales


@grouped_gemm.register_fake
def _(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    n = b.shape[1]
    return a.new_empty_strided((a.shape[0], n), (-(-n // 8) * 8, 1), dtype=dtype)


@grouped_gemm_reduce_into.register_fake
def _(c: Tensor, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, offsets: Tensor) -> None:
    return None
