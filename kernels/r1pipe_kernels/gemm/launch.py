"""Descriptors and tile choice for the Hopper kernel."""

from functools import cache

import torch
from triton.experimental.gluon import language as gl

from r1pipe_kernels.launching import Launch, Matrix, launch

from . import gluon_sm90
from .tiles import BK, STRIP, Tile, choose_tile, split_rows

GL = {torch.float8_e4m3fn: gl.float8e4nv, torch.bfloat16: gl.bfloat16, torch.float32: gl.float32}


@cache
def layout(bits: int, swizzle: int) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout(swizzle_byte_width=swizzle, element_bitwidth=bits, rank=2)


def descriptor(tensor: torch.Tensor, block: tuple[int, int], swizzle: int = 128) -> Matrix:
    """A bulk-copy descriptor of a matrix whose rows start at multiples of 16 bytes."""
    bits = tensor.element_size() * 8
    return Matrix(tensor, tensor.shape, tensor.stride(), block, layout(bits, swizzle))


@cache
def processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def gemm(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor,
    c: torch.Tensor, rows: bool, add: bool, tile: Tile | None = None, grid: int | None = None,
) -> Launch | None:  # fmt: skip
    """Write or add the product into c [M, N]; see `ops` for the shapes.

    Returns what does it again for other a, a_scales, b, b_scales and c of the same layouts.
    """
    (m, k), n = a.shape, b.shape[0]
    size = grid or processors(a.device.index or 0)
    tile = tile or choose_tile(m, n, k, rows, size)
    split = split_rows(m, n, tile, size)
    a_desc = descriptor(a, (STRIP, BK))
    by_copy = c.dtype == torch.bfloat16 and not add and c.stride(0) % 8 == 0
    return launch(
        gluon_sm90.gemm,
        (size,),
        (a, a_scales, b, b_scales, c),
        a_desc,
        descriptor(b, (tile.columns, BK)),
        descriptor(a_scales, (1, STRIP), 0),
        descriptor(b_scales, (1, tile.columns), 0) if rows else a_desc,
        descriptor(c, (STRIP, tile.columns)) if by_copy else a_desc,
        c, b_scales, m, n, k, b_scales.stride(0), c.stride(0), split.tall, split.short,
        STRIPS=tile.strips, BN=tile.columns, STAGES=tile.stages, GROUP=tile.group, VECTOR=rows,
        TMA_STORE=by_copy, ADD=add, REGS=tile.registers, num_warps=4,
    )  # fmt: skip
