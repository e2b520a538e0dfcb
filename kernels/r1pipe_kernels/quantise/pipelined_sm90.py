"""Quantisers of silu(gate) * up and of its gradients that compute a tile while the next one comes.

As in `packed_sm90`, but a CTA goes from tile to tile, and the copy engine brings the next one while
codes are made of one. Both gradients of a tile are made of one copy of its three inputs.
"""

from math import gcd
from typing import NamedTuple

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from r1pipe_kernels.formats import blocks
from r1pipe_kernels.gemm.launch import descriptor, layout, processors
from r1pipe_kernels.launching import Launch, launch

from . import packed_sm90
from .encoders_sm90 import (
    column_layout,
    gate_gradient,
    silu_mul,
    split_amax,
    tile_layout,
    up_gradient,
    write_codes,
)
from .packed_sm90 import SILU, SILU_BACKWARD, Geometry

TILE_BYTES = gl.constexpr(128 * 128 * 2)
WORDS = gl.constexpr(layout(32, 128))


@gluon.jit
def opaque(stride):
    """The same number, which the compiler cannot know to be: addresses made of it are made where
    they are used and do not wait in registers all through the loop."""
    same = gl.inline_asm_elementwise(
        "mov.b32 $0, $1;", "=r,r", [stride], dtype=gl.int32, is_pure=False, pack=1
    )
    return gl.multiple_of(same, 16)


@gluon.jit
def further(mb, kb, down, across, BAND, KB):
    """The CTA's next tile: it stays in its row of every band."""
    kb += across
    wrap = kb >= KB
    return mb + gl.where(wrap, down + BAND, down), gl.where(wrap, kb - KB, kb)


@gluon.jit
def expect(full, INPUTS: gl.constexpr, mb, MB):
    """Say that so many tiles will come, unless there are no more."""
    mbarrier.expect(full, INPUTS * TILE_BYTES, pred=mb < MB)


@gluon.jit
def fetch(desc, tiles, full, NUMBER: gl.constexpr, mb, kb, MB):
    """Start to copy a tile, unless there are no more, to place NUMBER."""
    corner = [mb * 128, kb * 128]
    tma.async_copy_global_to_shared(desc, corner, full, tiles.index(NUMBER), mb < MB)


@gluon.jit
def words(tiles, NUMBER: gl.constexpr, wide: gl.constexpr):
    """The tile in place NUMBER as int32 [128, 64]."""
    return tiles.index(NUMBER)._reinterpret(gl.int32, [128, 64], WORDS).load(wide)


@gluon.jit
def after_all_have_read():
    """Before the copy engine writes where threads have read."""
    fence_async_shared()
    gl.thread_barrier()


@gluon.jit(do_not_specialize=["M", "BAND", "MB", "KB"])
def pipelined_kernel(
    gate_desc, up_desc, dh_desc, row_codes, row_scales, col_codes, col_scales, M, K, BAND, MB, KB,
    row_stride, row_scale_stride, col_stride, col_scale_stride,
    MODE: gl.constexpr, POWER_OF_TWO: gl.constexpr, TR: gl.constexpr, TC: gl.constexpr,
    LR: gl.constexpr, WARPS_DOWN: gl.constexpr, EXCHANGE: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """`packed_sm90.bf16_kernel` in its modes 1 and 2 over all MB x KB tiles. MB and the grid are
    multiples of BAND: so many tiles one below the other are neighbours in time."""
    wide: gl.constexpr = tile_layout(TR, TC, LR, WARPS_DOWN, num_warps, 64, False)
    turned: gl.constexpr = tile_layout(TR, TC, LR, WARPS_DOWN, num_warps, 64, True)
    tall: gl.constexpr = column_layout(turned, EXCHANGE, num_warps)
    INPUTS: gl.constexpr = 2 if MODE == 1 else 3
    board = gl.allocate_shared_memory(gl.int32, [256], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    tiles = gl.allocate_shared_memory(gl.bfloat16, [INPUTS, 128, 128], gate_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(full, count=1)
    fence_async_shared()
    at = gl.program_id(0) // BAND
    mb = at // KB * BAND + gl.program_id(0) % BAND
    kb = at % KB
    step = gl.num_programs(0) // BAND
    down = step // KB * BAND
    across = step % KB
    expect(full, INPUTS, mb, MB)
    fetch(gate_desc, tiles, full, 0, mb, kb, MB)
    fetch(up_desc, tiles, full, 1, mb, kb, MB)
    if MODE == 2:
        fetch(dh_desc, tiles, full, 2, mb, kb, MB)
    phase = 0
    while mb < MB:
        next_mb, next_kb = further(mb, kb, down, across, BAND, KB)
        mbarrier.wait(full, phase)
        phase ^= 1
        gate = words(tiles, 0, wide)
        up = words(tiles, 1, wide)
        if MODE == 2:
            dh = words(tiles, 2, wide)
        after_all_have_read()
        expect(full, INPUTS, next_mb, MB)
        fetch(up_desc, tiles, full, 1, next_mb, next_kb, MB)
        if MODE == 1:
            fetch(gate_desc, tiles, full, 0, next_mb, next_kb, MB)
            even, odd = silu_mul(gate, up)
        else:
            even, odd = gate_gradient(gate, up, dh)
            split_amax(even, odd, board, True)
            write_codes(
                even, odd, board, row_codes, row_scales, col_codes, col_scales, mb, kb, M, 2 * K,
                opaque(row_stride), row_scale_stride, opaque(col_stride), col_scale_stride,
                True, True, POWER_OF_TWO, wide, turned, tall, num_warps,
            )  # fmt: skip
            # Read again: with the first gradient in them there are no registers to keep words in.
            gate = words(tiles, 0, wide)
            dh = words(tiles, 2, wide)
            after_all_have_read()
            fetch(gate_desc, tiles, full, 0, next_mb, next_kb, MB)
            fetch(dh_desc, tiles, full, 2, next_mb, next_kb, MB)
            even, odd = up_gradient(gate, dh)
            kb += KB
        split_amax(even, odd, board, True)
        write_codes(
            even, odd, board, row_codes, row_scales, col_codes, col_scales, mb, kb, M, MODE * K,
            opaque(row_stride), row_scale_stride, opaque(col_stride), col_scale_stride,
            True, True, POWER_OF_TWO, wide, turned, tall, num_warps,
        )  # fmt: skip
        mb = next_mb
        kb = next_kb


class Pipeline(NamedTuple):
    """How a persistent kernel is started."""

    geometry: Geometry
    ctas: int
    """Of a multiprocessor."""


PIPELINES: dict[int, Pipeline | None] = {
    SILU: Pipeline(Geometry(8, 4, 8, 2, False, 8, 128), 2),
    SILU_BACKWARD: Pipeline(Geometry(8, 4, 4, 4, False, 8, 128), 2),
}
"""The fastest of twelve on an H200, by 4 % and 1 %."""
BAND = 4
"""Tiles one below the other that run together, where their number allows."""


def takes(inputs: tuple[torch.Tensor, ...], mode: int) -> bool:
    """Whether a kernel here quantises these matrices, which `ops.by_gluon` let through: bf16, rows
    that do not overlap."""
    return (
        PIPELINES.get(mode) is not None
        and packed_sm90.takes(inputs, mode)
        and all(x.stride(0) >= x.shape[1] for x in inputs)
    )


def start(
    tensors: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...],
    outputs: tuple[torch.Tensor, ...], mode: int, power_of_two: bool,
) -> Launch | None:  # fmt: skip
    """`packed_sm90.start` with rows for inputs that `takes` lets through."""
    m, k = inputs[0].shape
    shape = PIPELINES[mode]
    assert shape is not None
    mb, kb = blocks(m), blocks(k)
    band = gcd(mb, BAND)
    size = min(shape.ctas * processors(inputs[0].device.index or 0), mb * kb)
    return launch(
        pipelined_kernel, (max(size // band, 1) * band,), tensors,
        *(descriptor(x, (128, 128)) for x in inputs), *outputs, m, k, band, mb, kb,
        *(t.stride(0) for t in outputs), MODE=mode, POWER_OF_TWO=power_of_two,
        **shape.geometry._asdict(),
    )  # fmt: skip
