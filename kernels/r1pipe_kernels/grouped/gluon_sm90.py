"""Hopper kernels of the grouped product of experts, from the parts of the dense one.

Rows of A belong to E groups, one after the other without gaps: group e is rows
`offsets[e] : offsets[e + 1]`, any number of them. CTAs take tiles in turn and walk the groups as
they go, so no count ever reaches the host.

`rows_kernel`     C[rows of e] = A[rows of e] @ B[e].T                    (forward, gradient of x)
`reduce_kernel`   C[e] = A[:, columns of e] @ B[:, columns of e].T        (gradient of w)

The columns of a group start at a multiple of 16 and end in zeros up to the next one.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.language.core import _aggregate as aggregate

from r1pipe_kernels.gemm.gluon_sm90 import (
    BK,
    STRIP,
    copy_tile,
    make_ring,
    multiply_onto,
    multiply_tile,
    skip_tile,
    store_rows,
)


@aggregate
class Groups:
    offsets: gl.tensor  # int32 [E + 1]
    count: gl.tensor
    num_n: gl.tensor

    @gluon.constexpr_function
    def __init__(self, offsets, count, num_n):
        self.offsets = offsets
        self.count = count
        self.num_n = num_n


@gluon.jit
def rows_of(start, end, STRIPS: gl.constexpr):
    """Rows of tiles a group has."""
    return gl.cdiv(gl.cdiv(end - start, STRIP), STRIPS)


@gluon.jit
def walk(groups, tile, group, first, STRIPS: gl.constexpr):
    """The group that `tile` is in, from a group before it, and that group's first tile."""
    start = gl.load(groups.offsets + group)
    end = gl.load(groups.offsets + group + 1)
    tiles = rows_of(start, end, STRIPS) * groups.num_n
    while (tile >= first + tiles) & (group + 1 < groups.count):
        first += tiles
        group += 1
        start = end
        end = gl.load(groups.offsets + group + 1)
        tiles = rows_of(start, end, STRIPS) * groups.num_n
    return group, first, start, end, tile < first + tiles


@gluon.jit
def place(tile, first, start, end, STRIPS: gl.constexpr):
    """(first row, strips, column) of a tile in its group: rows vary first, so that neighbours
    share a weight; strips are dealt evenly, since 4 as 2 + 2 are faster than as 3 + 1."""
    rows = rows_of(start, end, STRIPS)
    strips = gl.cdiv(end - start, STRIP)
    inside = (tile - first) % rows
    strip = strips * inside // rows
    height = strips * (inside + 1) // rows - strip
    return start + strip * STRIP, height, (tile - first) // rows


@gluon.jit
def rows_copier(ring, groups, a_desc, b_desc, N, num_k):
    slot = 0
    phase = 0
    tile = gl.program_id(0)
    group, first, start, end, more = walk(
        groups, tile, gl.to_tensor(0), gl.to_tensor(0), ring.STRIPS
    )
    while more:
        row, height, column = place(tile, first, start, end, ring.STRIPS)
        slot, phase = copy_tile(
            ring, a_desc, b_desc, b_desc, b_desc, slot, phase,
            row, height, group * N + column * ring.BN, 0, 0, 0, 0, num_k,
        )  # fmt: skip
        tile += gl.num_programs(0)
        group, first, start, end, more = walk(groups, tile, group, first, ring.STRIPS)


@gluon.jit
def rows_multiplier(
    ring, groups, c_desc, c_bufs, c_ptr, a_scale, b_scale, N, num_k, a_stride, b_stride,
    scales_of_group, c_stride,
    WG: gl.constexpr, TMA_STORE: gl.constexpr,
):  # fmt: skip
    slot = 0
    phase = 0
    tile = gl.program_id(0)
    group, first, start, end, more = walk(
        groups, tile, gl.to_tensor(0), gl.to_tensor(0), ring.STRIPS
    )
    while more:
        row, height, column = place(tile, first, start, end, ring.STRIPS)
        row += WG * STRIP
        col = column * ring.BN
        if height > WG:
            scales = b_scale + group * scales_of_group + (col // 128) * b_stride
            acc, slot, phase = multiply_tile(
                ring, scales, 1, slot, phase, num_k, WG, a_scale + row, a_stride, end - row
            )
            if TMA_STORE:
                # A copy cannot stop at the end of a group: only whole strips go that way.
                if row + STRIP <= end:
                    out = c_bufs.index(WG)
                    tma.store_wait(0)
                    out.store(acc.to(out.dtype))
                    fence_async_shared()
                    tma.async_copy_shared_to_global(c_desc, [row, col], out)
                else:
                    store_rows(c_ptr, acc, row, end, col, N, c_stride, ring.BN, False)
            else:
                store_rows(c_ptr, acc, row, end, col, N, c_stride, ring.BN, False)
        else:
            slot, phase = skip_tile(ring, slot, phase, num_k)
        tile += gl.num_programs(0)
        group, first, start, end, more = walk(groups, tile, group, first, ring.STRIPS)
    if TMA_STORE:
        tma.store_wait(0)


@gluon.jit
def rows_kernel(
    a_desc, b_desc, c_desc, c_ptr, a_scale, b_scale, offsets,
    E, N, K, a_stride, b_stride, scales_of_group, c_stride,
    STRIPS: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr, TMA_STORE: gl.constexpr,
    REGS: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """a [T, K], b [E * N, K], c [T, N]; b_scale [E, NB, KB]."""
    ring = make_ring(a_desc, b_desc, b_desc, b_desc, STRIPS, BN, STAGES, False, True)
    c_bufs = ring.b
    if TMA_STORE:
        c_bufs = gl.allocate_shared_memory(c_desc.dtype, [STRIPS, STRIP, BN], c_desc.layout)
    num_k = gl.to_tensor(gl.cdiv(K, BK))
    groups = Groups(offsets, gl.to_tensor(E), gl.to_tensor(gl.cdiv(N, BN)))
    # Written out: a constexpr stays one only as a literal argument of the call.
    if STRIPS == 1:
        gl.warp_specialize(
            [
                (rows_multiplier, (ring, groups, c_desc, c_bufs, c_ptr, a_scale, b_scale, N, num_k,
                                   a_stride, b_stride, scales_of_group, c_stride, 0, TMA_STORE)),
                (rows_copier, (ring, groups, a_desc, b_desc, N, num_k)),
            ],
            [1], [24],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (rows_multiplier, (ring, groups, c_desc, c_bufs, c_ptr, a_scale, b_scale, N, num_k,
                                   a_stride, b_stride, scales_of_group, c_stride, 0, TMA_STORE)),
                (rows_multiplier, (ring, groups, c_desc, c_bufs, c_ptr, a_scale, b_scale, N, num_k,
                                   a_stride, b_stride, scales_of_group, c_stride, 1, TMA_STORE)),
                (rows_multiplier, (ring, groups, c_desc, c_bufs, c_ptr, a_scale, b_scale, N, num_k,
                                   a_stride, b_stride, scales_of_group, c_stride, 2, TMA_STORE)),
                (rows_copier, (ring, groups, a_desc, b_desc, N, num_k)),
            ],
            [4, 4, 1], [REGS, REGS, 24],
        )  # fmt: skip


@gluon.jit
def reduce_copier(ring, offsets, E, a_desc, b_desc, s_desc, v_desc, num_m, num_n):
    slot = 0
    phase = 0
    group = 0
    block = 0
    column = 0
    per_group = num_m * num_n
    for tile in range(gl.program_id(0), E * per_group, gl.num_programs(0)):
        target = tile // per_group
        while group < target:
            passed = gl.load(offsets + group + 1) - gl.load(offsets + group)
            block += gl.cdiv(passed, BK)
            # A copy starts at multiples of 16 bytes, and so does every group.
            column += gl.cdiv(passed, 16) * 16
            group += 1
        num_k = gl.cdiv(gl.load(offsets + group + 1) - gl.load(offsets + group), BK)
        inside = tile % per_group
        slot, phase = copy_tile(
            ring, a_desc, b_desc, s_desc, v_desc, slot, phase,
            (inside % num_m) * (ring.STRIPS * STRIP), ring.STRIPS, (inside // num_m) * ring.BN,
            column, column, block, block, num_k,
        )  # fmt: skip


@gluon.jit
def cut(tile, columns):
    """Zero a tile of codes from column `columns` on."""
    layout: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [4, 1], [1, 0])
    at = gl.arange(0, BK, gl.SliceLayout(0, layout))
    values = tile.load(layout).to(gl.uint8, bitcast=True)
    values = gl.where((at < columns)[None, :], values, gl.zeros_like(values))
    tile.store(values.to(gl.float8e4nv, bitcast=True))


@gluon.jit
def cut_tail(ring, done, tails, slot, phase, columns, WG: gl.constexpr):
    """Zero what a stage holds of the next group: every warpgroup its strip of A, the first one B.

    `done` has a barrier for each of the last STAGES tails, `tails` counts them: the first
    warpgroup is ahead of the others by no more tails than there are stages to hold them.
    """
    mbarrier.wait(ring.full.index(slot), phase)
    cut(ring.a.index(slot * ring.STRIPS + WG), columns)
    bar = done.index(tails % ring.STAGES)
    if WG == 0:
        cut(ring.b.index(slot), columns)
        fence_async_shared()
        mbarrier.arrive(bar, count=1)
    else:
        fence_async_shared()
        mbarrier.wait(bar, (tails // ring.STAGES) & 1)


@gluon.jit
def reduce_multiplier(
    ring, done, offsets, E, c_ptr, M, N, num_m, num_n, c_stride, c_group,
    WG: gl.constexpr, ADD: gl.constexpr,
):  # fmt: skip
    slot = 0
    phase = 0
    tails = 0
    per_group = num_m * num_n
    for tile in range(gl.program_id(0), E * per_group, gl.num_programs(0)):
        group = tile // per_group
        tokens = gl.load(offsets + group + 1) - gl.load(offsets + group)
        num_k = gl.cdiv(tokens, BK)
        inside = tile % per_group
        row = ((inside % num_m) * ring.STRIPS + WG) * STRIP
        col = (inside // num_m) * ring.BN
        whole = tokens // BK
        acc, slot, phase = multiply_tile(ring, c_ptr, 1, slot, phase, whole, WG)
        if whole < num_k:
            cut_tail(ring, done, tails, slot, phase, tokens - whole * BK, WG)
            tails += 1
            acc, slot, phase = multiply_onto(ring, acc, c_ptr, 1, slot, phase, 1, WG)
        out = c_ptr + group.to(gl.int64) * c_group
        if not ADD or num_k > 0:
            store_rows(out, acc, row, M, col, N, c_stride, ring.BN, ADD)


@gluon.jit
def reduce_kernel(
    a_desc, b_desc, s_desc, v_desc, c_ptr, offsets, E, M, N, c_stride, c_group,
    STRIPS: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr, ADD: gl.constexpr,
    REGS: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """a [M, T], b [N, T], c fp32 [E, M, N]; scales of both [blocks of all groups, M or N]."""
    ring = make_ring(a_desc, b_desc, s_desc, v_desc, STRIPS, BN, STAGES, True, False)
    done = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(done.index(i), count=1)
    fence_async_shared()
    num_m = gl.cdiv(M, STRIPS * STRIP)
    num_n = gl.cdiv(N, BN)
    gl.warp_specialize(
        [
            (reduce_multiplier, (ring, done, offsets, E, c_ptr, M, N, num_m, num_n, c_stride,
                                 c_group, 0, ADD)),
            (reduce_multiplier, (ring, done, offsets, E, c_ptr, M, N, num_m, num_n, c_stride,
                                 c_group, 1, ADD)),
            (reduce_multiplier, (ring, done, offsets, E, c_ptr, M, N, num_m, num_n, c_stride,
                                 c_group, 2, ADD)),
            (reduce_copier, (ring, offsets, E, a_desc, b_desc, s_desc, v_desc, num_m, num_n)),
        ],
        [4, 4, 1], [REGS, REGS, 40],
    )  # fmt: skip
