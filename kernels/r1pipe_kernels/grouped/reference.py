"""Grouped products and the grouped quantiser in torch: a loop over groups, on any device.

Shapes: T tokens in E groups, group e is rows `offsets[e] : offsets[e + 1]` (int32 [E + 1]).
"""

import itertools

import torch

from r1pipe_kernels.formats import blocks, empty_codes, max_blocks, max_columns
from r1pipe_kernels.gemm import reference as dense
from r1pipe_kernels.quantise import reference as quantise


def bounds(offsets: torch.Tensor) -> list[tuple[int, int]]:
    edges = offsets.tolist()
    return list(itertools.pairwise(edges))


def columns_of(offsets: torch.Tensor) -> list[int]:
    """First column of every group where groups start at multiples of 16 bytes."""
    starts = [0]
    for start, end in bounds(offsets):
        starts.append(starts[-1] + -(-(end - start) // 16) * 16)
    return starts[:-1]


def quantise_columns(
    x: torch.Tensor, offsets: torch.Tensor, power_of_two: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, K] -> codes [K, max_columns], scales [max_blocks, K].

    Blocks of 128 tokens start anew with every group, and their scales follow each other without
    gaps. The columns of a group start at a multiple of 16. What no token fills is zero.
    """
    tokens, k = x.shape
    codes = empty_codes(k, max_columns(tokens, offsets.numel() - 1), x).fill_(0)
    parts = []
    for (start, end), column in zip(bounds(offsets), columns_of(offsets), strict=True):
        part, scales = quantise.quantise_columns(x[start:end], power_of_two)
        codes[:, column : column + end - start] = part
        parts.append(scales)
    stride = -(-k // 4) * 4
    rows = max_blocks(tokens, len(parts))
    out = torch.zeros(rows, stride, device=x.device)[:, :k]
    used = torch.cat(parts)
    out[: used.shape[0]] = used
    return codes, out


def quantise_both(x: torch.Tensor, offsets: torch.Tensor, power_of_two: bool = False):
    """Rows, which know no groups, then `quantise_columns`."""
    return *quantise.quantise_rows(x, power_of_two), *quantise_columns(x, offsets, power_of_two)


def silu_mul_quantise(
    gate: torch.Tensor, up: torch.Tensor, offsets: torch.Tensor, power_of_two: bool = False
):
    """`quantise_both` of silu(gate) * up."""
    return quantise_both(quantise.silu_mul(gate, up), offsets, power_of_two)


def silu_mul_backward_quantise(
    dh: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, offsets: torch.Tensor,
    power_of_two: bool = False,
):  # fmt: skip
    """`quantise_both` of the gradients of gate and up, side by side."""
    return quantise_both(quantise.silu_mul_backward(dh, gate, up), offsets, power_of_two)


def gemm(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor,
    offsets: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """a [T, K], b [E, N, K], b_scales [E, NB, KB] -> fp32 [T, N]."""
    out = torch.zeros(a.shape[0], b.shape[1], device=a.device)
    for e, (start, end) in enumerate(bounds(offsets)):
        out[start:end] = dense.gemm(
            a[start:end], a_scales[:, start:end], b[e], b_scales[e], rows=False
        )
    return out


def gemm_reduce(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor,
    offsets: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """a and b from `quantise_columns` of [T, M] and [T, N] -> fp32 [E, M, N], one sum a group."""
    out = torch.zeros(offsets.numel() - 1, a.shape[0], b.shape[0], device=a.device)
    first = 0
    for e, ((start, end), column) in enumerate(
        zip(bounds(offsets), columns_of(offsets), strict=True)
    ):
        last, span = first + blocks(end - start), slice(column, column + end - start)
        out[e] = dense.gemm(
            a[:, span], a_scales[first:last], b[:, span], b_scales[first:last], rows=True
        )
        first = last
    return out
