"""Descriptors and tile choice for the grouped Hopper kernels."""

import torch

from r1pipe_kernels.gemm.launch import descriptor, processors
from r1pipe_kernels.gemm.tiles import BK, STRIP, Tile
from r1pipe_kernels.launching import Launch, launch

from . import gluon_sm90


def choose(tokens: int, groups: int) -> Tile:
    """Three strips, unless an average group has no more rows than one."""
    return Tile(1, 128, 7) if tokens <= groups * STRIP else Tile(3, 128, 4)


def gemm(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor,
    c: torch.Tensor, offsets: torch.Tensor, tile: Tile | None = None,
) -> Launch | None:  # fmt: skip
    groups, n, k = b.shape
    tile = tile or choose(a.shape[0], groups)
    a_desc = descriptor(a, (STRIP, BK))
    by_expert = descriptor(b, (tile.columns, BK))
    flat = by_expert._replace(shape=(groups * n, k), strides=(b.stride(1), 1))
    by_copy = c.dtype == torch.bfloat16 and c.stride(0) % 8 == 0
    return launch(
        gluon_sm90.rows_kernel, (processors(a.device.index or 0),),
        (a, a_scales, b, b_scales, c, offsets),
        a_desc, flat,
        descriptor(c, (STRIP, tile.columns)) if by_copy else a_desc,
        c, a_scales, b_scales, offsets, groups, n, k,
        a_scales.stride(0), b_scales.stride(1), b_scales.stride(0), c.stride(0),
        STRIPS=tile.strips, BN=tile.columns, STAGES=tile.stages, TMA_STORE=by_copy,
        REGS=160, num_warps=4,
    )  # fmt: skip


def gemm_reduce(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor,
    c: torch.Tensor, offsets: torch.Tensor, add: bool,
) -> Launch | None:  # fmt: skip
    groups, m, n = c.shape
    return launch(
        gluon_sm90.reduce_kernel, (processors(a.device.index or 0),),
        (a, a_scales, b, b_scales, c, offsets),
        descriptor(a, (STRIP, BK)), descriptor(b, (128, BK)), descriptor(a_scales, (1, STRIP), 0),
        descriptor(b_scales, (1, 128), 0), c, offsets, groups, m, n, c.stride(1), c.stride(0),
        STRIPS=3, BN=128, STAGES=5, ADD=add, REGS=152, num_warps=4,
    )  # fmt: skip
