"""Hopper kernel of the block-scaled FP8 product, in Gluon: one copy warp feeds 1 to 3 warpgroups.

Shapes: M rows of A, N rows of B, K the reduced axis, KB = ceil(K / 128).

    C[M, N] = sum over kb of (A[M, kb] @ B[N, kb].T) * a_scale[kb, M] * b_scale

`b_scale` is one number per 128 x 128 block of B (weights), or one per kb and row of B (weight
gradients, where both operands are activations). The tensor core keeps about 14 bits in an FP8
accumulation, so every 128 of K is promoted to an fp32 sum kept in registers.

A *strip* is 64 rows of A, the height of one warpgroup's instruction. A tile is up to `STRIPS`
strips times `BN` columns. Three strips, not two: while one warpgroup promotes its block on the
CUDA cores, the two others keep the tensor cores busy; and 192 rows need a sixth fewer bytes from
the L2 cache than 128. Four do not fit the register file.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.core import _aggregate as aggregate

STRIP = gl.constexpr(64)
BK = gl.constexpr(128)


@aggregate
class Ring:
    """The stages in shared memory between the copy warp and the warpgroups that multiply."""

    a: gl.shared_memory_descriptor  # [STAGES * STRIPS, 64, 128] e4m3
    b: gl.shared_memory_descriptor  # [STAGES, BN, 128] e4m3
    s: gl.shared_memory_descriptor  # [STAGES * STRIPS, 1, 64] fp32 scales of A's rows
    v: gl.shared_memory_descriptor  # [STAGES, 1, BN] fp32 scales of B's rows, with VECTOR
    full: gl.shared_memory_descriptor
    empty: gl.shared_memory_descriptor
    STRIPS: gl.constexpr
    BN: gl.constexpr
    STAGES: gl.constexpr
    VECTOR: gl.constexpr
    # The warpgroups load A's scales themselves: a copy cannot start where a group of rows does,
    # for the innermost coordinate has to be a multiple of 16 bytes.
    LOADED: gl.constexpr

    @gluon.constexpr_function
    def __init__(self, a, b, s, v, full, empty, STRIPS, BN, STAGES, VECTOR, LOADED):
        self.a = a
        self.b = b
        self.s = s
        self.v = v
        self.full = full
        self.empty = empty
        self.STRIPS = gl.constexpr(STRIPS)
        self.BN = gl.constexpr(BN)
        self.STAGES = gl.constexpr(STAGES)
        self.VECTOR = gl.constexpr(VECTOR)
        self.LOADED = gl.constexpr(LOADED)


@gluon.jit
def make_ring(
    a_desc, b_desc, s_desc, v_desc,
    STRIPS: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr, VECTOR: gl.constexpr,
    LOADED: gl.constexpr,
):  # fmt: skip
    a = gl.allocate_shared_memory(a_desc.dtype, [STAGES * STRIPS, STRIP, BK], a_desc.layout)
    b = gl.allocate_shared_memory(b_desc.dtype, [STAGES, BN, BK], b_desc.layout)
    s = b
    if not LOADED:
        s = gl.allocate_shared_memory(gl.float32, [STAGES * STRIPS, 1, STRIP], s_desc.layout)
    v = b
    if VECTOR:
        v = gl.allocate_shared_memory(gl.float32, [STAGES, 1, BN], v_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=STRIPS)
    fence_async_shared()
    return Ring(a, b, s, v, full, empty, STRIPS, BN, STAGES, VECTOR, LOADED)


@gluon.jit
def advance(slot, phase, STAGES: gl.constexpr):
    """The next stage of the ring, and the parity its barriers complete with."""
    wrap = slot + 1 == STAGES
    return gl.where(wrap, 0, slot + 1), gl.where(wrap, phase ^ 1, phase)


@gluon.jit
def copy_tile(
    ring, a_desc, b_desc, s_desc, v_desc, slot, phase,
    row, height, col, a_k, b_k, s_row, v_row, num_k,
):  # fmt: skip
    """Copy a tile's operands, 128 of K a stage, as stages become free."""
    STRIPS: gl.constexpr = ring.STRIPS
    BN: gl.constexpr = ring.BN
    a_bytes: gl.constexpr = STRIP * (BK if ring.LOADED else BK + 4)
    b_bytes: gl.constexpr = BN * (BK + 4 if ring.VECTOR else BK)
    for k in range(num_k):
        mbarrier.wait(ring.empty.index(slot), phase ^ 1)
        bar = ring.full.index(slot)
        for n in gl.static_range(1, STRIPS + 1):
            mbarrier.expect(bar, n * a_bytes + b_bytes, pred=height == n)
        for n in gl.static_range(STRIPS):
            tma.async_copy_global_to_shared(
                a_desc, [row + n * STRIP, a_k + k * BK], bar, ring.a.index(slot * STRIPS + n),
                pred=n < height,
            )  # fmt: skip
            if not ring.LOADED:
                # Scales travel with the codes: loaded by the warpgroups, they can take longer
                # than the product they belong to.
                tma.async_copy_global_to_shared(
                    s_desc, [s_row + k, row + n * STRIP], bar, ring.s.index(slot * STRIPS + n),
                    pred=n < height,
                )  # fmt: skip
        tma.async_copy_global_to_shared(b_desc, [col, b_k + k * BK], bar, ring.b.index(slot))
        if ring.VECTOR:
            tma.async_copy_global_to_shared(v_desc, [v_row + k, col], bar, ring.v.index(slot))
        slot, phase = advance(slot, phase, ring.STAGES)
    return slot, phase


@gluon.jit
def multiply_tile(
    ring, b_scale, b_stride, slot, phase, num_k, WG: gl.constexpr, a_scale=None, a_stride=0,
    rows_left=0,
):  # fmt: skip
    """One strip of a tile: fp32 sums over K of the scaled 128-deep products.

    With LOADED, `a_scale` points at the scale of the strip's first row and `rows_left` rows of it
    exist.
    """
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, ring.BN, 32]
    )
    acc = gl.zeros([STRIP, ring.BN], gl.float32, layout)
    return multiply_onto(
        ring, acc, b_scale, b_stride, slot, phase, num_k, WG, a_scale, a_stride, rows_left
    )


@gluon.jit
def multiply_onto(
    ring, acc, b_scale, b_stride, slot, phase, num_k, WG: gl.constexpr, a_scale=None, a_stride=0,
    rows_left=0,
):  # fmt: skip
    """`multiply_tile`, continuing a sum."""
    BN: gl.constexpr = ring.BN
    layout: gl.constexpr = acc.type.layout
    if ring.LOADED:
        at = gl.arange(0, STRIP, gl.SliceLayout(1, layout))
        pointers = a_scale + at
    for _ in range(num_k):
        mbarrier.wait(ring.full.index(slot), phase)
        zero = gl.zeros([STRIP, BN], gl.float32, layout)
        token = warpgroup_mma(
            ring.a.index(slot * ring.STRIPS + WG), ring.b.index(slot).permute((1, 0)), zero,
            use_acc=False, is_async=True,
        )  # fmt: skip
        # After the product is under way: what it does not wait for runs in its shadow.
        if ring.LOADED:
            scale = gl.load(pointers, mask=at < rows_left, other=0.0)
            pointers += a_stride
        else:
            scales = ring.s.index(slot * ring.STRIPS + WG).reshape((STRIP,))
            scale = scales.load(gl.SliceLayout(1, layout))
        if not ring.VECTOR:
            # One scalar for the whole block of B: folded here it costs 2 multiplications a
            # thread, not one an element.
            scale = scale * gl.load(b_scale)
            b_scale += b_stride
        part = warpgroup_mma_wait(0, deps=(token,))
        if ring.VECTOR:
            columns = ring.v.index(slot).reshape((BN,)).load(gl.SliceLayout(0, layout))
            acc += (part * scale[:, None]) * columns[None, :]
            # The next copy may land as soon as the stage is handed back, and a load from shared
            # memory can still be queued then: seen as wrong scales under a busy epilogue.
            fence_async_shared()
            mbarrier.arrive(ring.empty.index(slot), count=1)
        else:
            mbarrier.arrive(ring.empty.index(slot), count=1)
            acc += part * scale[:, None]
        slot, phase = advance(slot, phase, ring.STAGES)
    return acc, slot, phase


@gluon.jit
def skip_tile(ring, slot, phase, num_k):
    """A warpgroup without a strip in this tile only hands the stages back."""
    for _ in range(num_k):
        mbarrier.wait(ring.full.index(slot), phase)
        mbarrier.arrive(ring.empty.index(slot), count=1)
        slot, phase = advance(slot, phase, ring.STAGES)
    return slot, phase


@gluon.jit
def store_rows(c_ptr, acc, row, row_end, col, N, c_stride, BN: gl.constexpr, ADD: gl.constexpr):
    """Write a strip from registers, masked; with ADD onto what is there."""
    layout: gl.constexpr = acc.type.layout
    rows = row + gl.arange(0, STRIP, gl.SliceLayout(1, layout))
    cols = col + gl.arange(0, BN, gl.SliceLayout(0, layout))
    pointers = c_ptr + rows.to(gl.int64)[:, None] * c_stride + cols[None, :]
    mask = (rows < row_end)[:, None] & (cols < N)[None, :]
    if ADD:
        # One reduction in the L2 cache an element: nothing waits for what is there.
        gl.atomic_add(pointers, acc, mask=mask, sem="relaxed")
    else:
        gl.store(pointers, acc.to(c_ptr.dtype.element_ty), mask=mask)


@aggregate
class Plan:
    """Which tiles a CTA computes: `tall_rows` rows of tiles STRIPS high, then `short_rows` of
    tiles one strip lower."""

    strips: gl.tensor
    tall_rows: gl.tensor
    short_rows: gl.tensor
    num_n: gl.tensor
    num_k: gl.tensor
    GROUP: gl.constexpr

    @gluon.constexpr_function
    def __init__(self, strips, tall_rows, short_rows, num_n, num_k, GROUP):
        self.strips = strips
        self.tall_rows = tall_rows
        self.short_rows = short_rows
        self.num_n = num_n
        self.num_k = num_k
        self.GROUP = gl.constexpr(GROUP)


@gluon.jit
def tiles_of_cta(plan):
    """How many tiles this CTA computes: (tall ones, all)."""
    p = gl.program_id(0)
    size = gl.num_programs(0)
    tall = plan.tall_rows * plan.num_n
    short = plan.short_rows * plan.num_n
    extra = tall % size
    idle = size - extra
    mine = tall // size + (p < extra).to(gl.int32)
    rest = (gl.maximum(short - 2 * idle - p, 0) + size - 1) // size
    early = gl.minimum((gl.maximum(short - (p - extra), 0) + idle - 1) // idle, 2)
    return mine, mine + rest + gl.where(p >= extra, early, 0)


@gluon.jit
def tile_at(plan, i, mine, STRIPS: gl.constexpr):
    """The i-th tile of this CTA: (first strip, number of strips, column of tiles).

    Tall tiles go round the CTAs. Short ones come last and go, two each, to the CTAs that the tall
    ones left a tile behind, then round all of them: so the last wave ends together.
    """
    p = gl.program_id(0)
    size = gl.num_programs(0)
    if i < mine:
        tile = i * size + p
        width = plan.GROUP * plan.num_n
        first = (tile // width) * plan.GROUP
        rows = gl.minimum(plan.tall_rows - first, plan.GROUP)
        strip = (first + (tile % width) % rows) * STRIPS
        column = (tile % width) // rows
        height = gl.minimum(plan.strips - strip, STRIPS)
    else:
        extra = (plan.tall_rows * plan.num_n) % size
        idle = size - extra
        j = i - mine
        late = 2 * idle + p + j * size - gl.where(p >= extra, 2 * size, 0)
        tile = gl.where((p >= extra) & (j < 2), p - extra + j * idle, late)
        strip = plan.tall_rows * STRIPS + (tile % plan.short_rows) * (STRIPS - 1)
        column = tile // plan.short_rows
        height = gl.minimum(plan.strips - strip, STRIPS - 1)
    return strip, height, column


@gluon.jit
def copier(ring, plan, a_desc, b_desc, s_desc, v_desc):
    mine, count = tiles_of_cta(plan)
    slot = 0
    phase = 0
    for i in range(count):
        strip, height, column = tile_at(plan, i, mine, ring.STRIPS)
        slot, phase = copy_tile(
            ring, a_desc, b_desc, s_desc, v_desc, slot, phase,
            strip * STRIP, height, column * ring.BN, 0, 0, 0, 0, plan.num_k,
        )  # fmt: skip


@gluon.jit
def multiplier(
    ring, plan, c_desc, c_bufs, c_ptr, b_scale, M, N, b_stride, c_stride,
    WG: gl.constexpr, TMA_STORE: gl.constexpr, ADD: gl.constexpr,
):  # fmt: skip
    mine, count = tiles_of_cta(plan)
    slot = 0
    phase = 0
    for i in range(count):
        strip, height, column = tile_at(plan, i, mine, ring.STRIPS)
        if height > WG:
            row = (strip + WG) * STRIP
            col = column * ring.BN
            acc, slot, phase = multiply_tile(
                ring, b_scale + (col // 128) * b_stride, 1, slot, phase, plan.num_k, WG
            )
            if TMA_STORE:
                # The copy engine drains this buffer under the next tile's products.
                out = c_bufs.index(WG)
                tma.store_wait(0)
                out.store(acc.to(out.dtype))
                fence_async_shared()
                tma.async_copy_shared_to_global(c_desc, [row, col], out)
            else:
                store_rows(c_ptr, acc, row, M, col, N, c_stride, ring.BN, ADD)
        else:
            slot, phase = skip_tile(ring, slot, phase, plan.num_k)
    if TMA_STORE:
        tma.store_wait(0)


@gluon.jit
def gemm(
    a_desc, b_desc, s_desc, v_desc, c_desc, c_ptr, b_scale,
    M, N, K, b_stride, c_stride, tall_rows, short_rows,
    STRIPS: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr, GROUP: gl.constexpr,
    VECTOR: gl.constexpr, TMA_STORE: gl.constexpr, ADD: gl.constexpr,
    REGS: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """See the module's docstring. Grid: one CTA a multiprocessor; num_warps = 4."""
    ring = make_ring(a_desc, b_desc, s_desc, v_desc, STRIPS, BN, STAGES, VECTOR, False)
    c_bufs = ring.b
    if TMA_STORE:
        c_bufs = gl.allocate_shared_memory(c_desc.dtype, [STRIPS, STRIP, BN], c_desc.layout)
    # An argument equal to 1 arrives as a constant.
    plan = Plan(
        gl.to_tensor(gl.cdiv(M, STRIP)), gl.to_tensor(tall_rows), gl.to_tensor(short_rows),
        gl.to_tensor(gl.cdiv(N, BN)), gl.to_tensor(gl.cdiv(K, BK)), GROUP,
    )  # fmt: skip
    # Written out: a constexpr stays one only as a literal argument of the call.
    if STRIPS == 1:
        gl.warp_specialize(
            [
                (multiplier, (ring, plan, c_desc, c_bufs, c_ptr, b_scale, M, N, b_stride,
                              c_stride, 0, TMA_STORE, ADD)),
                (copier, (ring, plan, a_desc, b_desc, s_desc, v_desc)),
            ],
            [1], [24],
        )  # fmt: skip
    elif STRIPS == 2:
        gl.warp_specialize(
            [
                (multiplier, (ring, plan, c_desc, c_bufs, c_ptr, b_scale, M, N, b_stride,
                              c_stride, 0, TMA_STORE, ADD)),
                (multiplier, (ring, plan, c_desc, c_bufs, c_ptr, b_scale, M, N, b_stride,
                              c_stride, 1, TMA_STORE, ADD)),
                (copier, (ring, plan, a_desc, b_desc, s_desc, v_desc)),
            ],
            [4, 1], [REGS, 24],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (multiplier, (ring, plan, c_desc, c_bufs, c_ptr, b_scale, M, N, b_stride,
                              c_stride, 0, TMA_STORE, ADD)),
                (multiplier, (ring, plan, c_desc, c_bufs, c_ptr, b_scale, M, N, b_stride,
                              c_stride, 1, TMA_STORE, ADD)),
                (multiplier, (ring, plan, c_desc, c_bufs, c_ptr, b_scale, M, N, b_stride,
                              c_stride, 2, TMA_STORE, ADD)),
                (copier, (ring, plan, a_desc, b_desc, s_desc, v_desc)),
            ],
            [4, 4, 1], [REGS, REGS, 24],
        )  # fmt: skip
