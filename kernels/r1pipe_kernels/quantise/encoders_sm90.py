"""Device functions that make E4M3 codes of a tile of 128 x 128 without unpacking it.

bf16 stays two to a register until it is codes. Four neighbours of a column become one word of codes
in the registers that loaded them, so that transposing moves whole words between threads or nothing
at all. Largest magnitudes of bf16 are found two at a time; they meet on a board in shared memory,
where each thread divides for one or two of them, and come back as factors.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from r1pipe_kernels.formats import AMAX_FLOOR, E4M3_MAX

FLOOR = gl.constexpr(AMAX_FLOOR)
MAX = gl.constexpr(E4M3_MAX)

# Numbers are rows, l and h the columns in the low and the high half of the words $2 to $5: the four
# codes of column l to $0, of h to $1. $6 and $10 are the factors of l and h.
COLUMNS = gl.constexpr("""{
.reg .f32 l<4>, h<4>; .reg .b16 a, b; .reg .b32 t;
shl.b32 t, $2, 16; mov.b32 l0, t; shl.b32 t, $3, 16; mov.b32 l1, t;
shl.b32 t, $4, 16; mov.b32 l2, t; shl.b32 t, $5, 16; mov.b32 l3, t;
mul.f32 l0, l0, $6; mul.f32 l1, l1, $6; mul.f32 l2, l2, $6; mul.f32 l3, l3, $6;
cvt.rn.satfinite.e4m3x2.f32 a, l1, l0; cvt.rn.satfinite.e4m3x2.f32 b, l3, l2; mov.b32 $0, {a, b};
and.b32 t, $2, 0xffff0000; mov.b32 h0, t; and.b32 t, $3, 0xffff0000; mov.b32 h1, t;
and.b32 t, $4, 0xffff0000; mov.b32 h2, t; and.b32 t, $5, 0xffff0000; mov.b32 h3, t;
mul.f32 h0, h0, $10; mul.f32 h1, h1, $10; mul.f32 h2, h2, $10; mul.f32 h3, h3, $10;
cvt.rn.satfinite.e4m3x2.f32 a, h1, h0; cvt.rn.satfinite.e4m3x2.f32 b, h3, h2; mov.b32 $1, {a, b};
}""")
# Two words of a row, $1 and $2, times $3: four codes.
ROWS = gl.constexpr("""{
.reg .f32 x<4>; .reg .b16 a, b; .reg .b32 t;
shl.b32 t, $1, 16; mov.b32 x0, t; and.b32 t, $1, 0xffff0000; mov.b32 x1, t;
shl.b32 t, $2, 16; mov.b32 x2, t; and.b32 t, $2, 0xffff0000; mov.b32 x3, t;
mul.f32 x0, x0, $3; mul.f32 x1, x1, $3; mul.f32 x2, x2, $3; mul.f32 x3, x3, $3;
cvt.rn.satfinite.e4m3x2.f32 a, x1, x0; cvt.rn.satfinite.e4m3x2.f32 b, x3, x2; mov.b32 $0, {a, b};
}""")
# $1 to $4 in fp32, in this order, each times its own factor.
FOUR = gl.constexpr("""{
.reg .f32 x<4>; .reg .b16 a, b;
mul.f32 x0, $1, $5; mul.f32 x1, $2, $6; mul.f32 x2, $3, $7; mul.f32 x3, $4, $8;
cvt.rn.satfinite.e4m3x2.f32 a, x1, x0; cvt.rn.satfinite.e4m3x2.f32 b, x3, x2; mov.b32 $0, {a, b};
}""")
# Even columns $1 and $2, odd columns $3 and $4 of a row in fp32.
PAIRS = gl.constexpr("""{
.reg .f32 x<4>; .reg .b16 a, b;
mul.f32 x0, $1, $5; mul.f32 x1, $3, $5; mul.f32 x2, $2, $6; mul.f32 x3, $4, $6;
cvt.rn.satfinite.e4m3x2.f32 a, x1, x0; cvt.rn.satfinite.e4m3x2.f32 b, x3, x2; mov.b32 $0, {a, b};
}""")
# gate / (1 + exp(-gate)) * up of both halves of a word. A quarter of numerator and divisor keeps
# the divisor where `rcp.approx` is exact to a bit: above 2^126 its result would be flushed to zero.
SILU_MUL = gl.constexpr("""{
.reg .f32 g, e, q; .reg .b32 t;
shl.b32 t, $2, 16; mov.b32 g, t; mul.f32 e, g, 0fBFB8AA3B; ex2.approx.ftz.f32 e, e;
fma.rn.f32 e, e, 0f3E800000, 0f3E800000; rcp.approx.ftz.f32 e, e; mul.f32 q, g, 0f3E800000;
mul.f32 q, q, e; shl.b32 t, $3, 16; mov.b32 g, t; mul.f32 $0, q, g;
and.b32 t, $2, 0xffff0000; mov.b32 g, t; mul.f32 e, g, 0fBFB8AA3B; ex2.approx.ftz.f32 e, e;
fma.rn.f32 e, e, 0f3E800000, 0f3E800000; rcp.approx.ftz.f32 e, e; mul.f32 q, g, 0f3E800000;
mul.f32 q, q, e; and.b32 t, $3, 0xffff0000; mov.b32 g, t; mul.f32 $1, q, g;
}""")

# The gradients of that, times dh in the last word: by gate,
# dh * sigmoid * up * (1 + gate * (1 - sigmoid)), and by up, dh * sigmoid * gate.
GATE_GRADIENT = gl.constexpr("""{
.reg .f32 g, s, q; .reg .b32 t;
shl.b32 t, $2, 16; mov.b32 g, t; mul.f32 s, g, 0fBFB8AA3B; ex2.approx.ftz.f32 s, s;
fma.rn.f32 s, s, 0f3E800000, 0f3E800000; rcp.approx.ftz.f32 s, s; mul.f32 s, s, 0f3E800000;
sub.f32 q, 0f3F800000, s; fma.rn.f32 q, g, q, 0f3F800000; shl.b32 t, $3, 16; mov.b32 g, t;
mul.f32 q, q, g; mul.f32 q, q, s; shl.b32 t, $4, 16; mov.b32 g, t; mul.f32 $0, q, g;
and.b32 t, $2, 0xffff0000; mov.b32 g, t; mul.f32 s, g, 0fBFB8AA3B; ex2.approx.ftz.f32 s, s;
fma.rn.f32 s, s, 0f3E800000, 0f3E800000; rcp.approx.ftz.f32 s, s; mul.f32 s, s, 0f3E800000;
sub.f32 q, 0f3F800000, s; fma.rn.f32 q, g, q, 0f3F800000; and.b32 t, $3, 0xffff0000; mov.b32 g, t;
mul.f32 q, q, g; mul.f32 q, q, s; and.b32 t, $4, 0xffff0000; mov.b32 g, t; mul.f32 $1, q, g;
}""")
UP_GRADIENT = gl.constexpr("""{
.reg .f32 g, s; .reg .b32 t;
shl.b32 t, $2, 16; mov.b32 g, t; mul.f32 s, g, 0fBFB8AA3B; ex2.approx.ftz.f32 s, s;
fma.rn.f32 s, s, 0f3E800000, 0f3E800000; rcp.approx.ftz.f32 s, s; mul.f32 g, g, 0f3E800000;
mul.f32 s, s, g; shl.b32 t, $3, 16; mov.b32 g, t; mul.f32 $0, s, g;
and.b32 t, $2, 0xffff0000; mov.b32 g, t; mul.f32 s, g, 0fBFB8AA3B; ex2.approx.ftz.f32 s, s;
fma.rn.f32 s, s, 0f3E800000, 0f3E800000; rcp.approx.ftz.f32 s, s; mul.f32 g, g, 0f3E800000;
mul.f32 s, s, g; and.b32 t, $3, 0xffff0000; mov.b32 g, t; mul.f32 $1, s, g;
}""")


@gluon.constexpr_function
def tile_layout(TR, TC, LR, WARPS_DOWN, WARPS, WIDTH, TURNED):
    """TR x TC neighbours a thread, LR threads of a warp and WARPS_DOWN warps one below the other,
    the others side by side, of [128, WIDTH].

    TURNED numbers the registers down the columns and moves nothing to another thread.
    """

    def bases(size, step, axis):
        places = [step << i for i in range(size.bit_length() - 1)]
        return [[at, 0] if axis == 0 else [0, at] for at in places]

    lanes_across, warps_across = 32 // LR, WARPS // WARPS_DOWN
    down, across = bases(TR, 1, 0), bases(TC, 1, 1)
    height, width = TR * LR * WARPS_DOWN, TC * lanes_across * warps_across
    more = bases(128 // height, height, 0) + bases(WIDTH // width, width, 1)
    lanes = bases(lanes_across, TC, 1) + bases(LR, TR, 0)
    warps = bases(warps_across, TC * lanes_across, 1) + bases(WARPS_DOWN, TR * LR, 0)
    registers = (down + across if TURNED else across + down) + more
    return gl.DistributedLinearLayout(registers, lanes, warps, [], [128, WIDTH])


@gluon.constexpr_function
def column_layout(turned, EXCHANGE, WARPS):
    """Where bytes of columns are stored from: where they are, or four lines of 128 a warp."""
    return gl.BlockedLayout([16, 1], [8, 4], [1, WARPS], [0, 1]) if EXCHANGE else turned


@gluon.jit
def larger_halves(a, b):
    """Larger of the low and of the high 16 bits, unsigned."""
    return gl.inline_asm_elementwise(
        "max.u16x2 $0, $1, $2;", "=r,r,r", [a, b], dtype=gl.int32, is_pure=True, pack=1
    )


@gluon.jit
def larger_magnitude(a, b):
    """The larger magnitude of fp32; NaN if one is."""
    return gl.inline_asm_elementwise(
        "{.reg .f32 p, q; abs.f32 p, $1; abs.f32 q, $2; max.NaN.f32 $0, p, q;}", "=f,f,f", [a, b],
        dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def larger_magnitudes(a, b, c, d):
    """Of a and c, and of b and d."""
    return larger_magnitude(a, c), larger_magnitude(b, d)


@gluon.jit
def scale_of(bits, POWER_OF_TWO: gl.constexpr):
    """(scale, inverse) from the bits of the largest magnitude."""
    amax = bits.to(gl.float32, bitcast=True)
    floored = gl.where(amax < FLOOR, FLOOR, amax)
    top = gl.full(bits.shape, MAX, gl.float32, bits.type.layout)
    scale = gl.div_rn(floored, top)
    inverse = gl.div_rn(top, floored)
    if POWER_OF_TWO:
        raw = scale.to(gl.int32, bitcast=True)
        exponent = (raw >> 23) + ((raw & 0x7FFFFF) != 0).to(gl.int32)
        finite = (raw >> 23) != 255
        scale = gl.where(finite, (exponent << 23).to(gl.float32, bitcast=True), scale)
        inverse = gl.where(finite, ((254 - exponent) << 23).to(gl.float32, bitcast=True), inverse)
    zero = bits == 0
    return gl.where(zero, 1.0, scale), gl.where(zero, 1.0, inverse)


@gluon.jit
def divide(
    board, row_scales, col_scales, mb, kb, M, K, row_scale_stride, col_scale_stride,
    ROW: gl.constexpr, HALVES: gl.constexpr, POWER_OF_TWO: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Bits of largest magnitudes on the board become factors there, and scales in memory.

    The board has 128 columns, with HALVES the even ones first, and behind them 128 rows.
    """
    SIZE: gl.constexpr = 256 if ROW else 128
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [num_warps], [0])
    view = board.slice(0, SIZE)
    scale, inverse = scale_of(view.load(flat), POWER_OF_TWO)
    at = gl.arange(0, SIZE, flat)
    line = at % 128
    column = kb * 128 + (2 * (line % 64) + line // 64 if HALVES else line)
    pointers = col_scales + mb.to(gl.int64) * col_scale_stride + column
    gl.store(pointers, scale, mask=(at < 128) & (column < K))
    if ROW:
        row = mb * 128 + line
        pointers = row_scales + kb.to(gl.int64) * row_scale_stride + row
        gl.store(pointers, scale, mask=(at >= 128) & (row < M))
    view.store(inverse.to(gl.int32, bitcast=True))


@gluon.jit
def factors(board, START: gl.constexpr, SIZE: gl.constexpr, layout: gl.constexpr):
    return board.slice(START, SIZE).load(layout).to(gl.float32, bitcast=True)


@gluon.jit
def words_at(ptr, mb, kb, stride, M, K, WORD: gl.constexpr, layout: gl.constexpr):
    """(pointers, mask), [128, 64], to pairs of neighbours of a tile's rows, which are `stride`
    elements apart, as WORD; offsets from the tile's corner have 32 bits."""
    rows = gl.arange(0, 128, gl.SliceLayout(1, layout))
    words = gl.arange(0, 64, gl.SliceLayout(0, layout))
    inside = words < gl.multiple_of(K // 2, 16) - kb * 64
    mask = (rows < M - mb * 128)[:, None] & inside[None, :]
    stride = gl.multiple_of(stride // 2, 8)
    corner = ptr.to(gl.pointer_type(WORD), bitcast=True)
    corner += (mb * 128).to(gl.int64) * stride + kb * 64
    return corner + ((rows * stride)[:, None] + words[None, :]), mask


@gluon.jit
def load_words(x_ptr, mb, kb, stride, M, K, layout: gl.constexpr):
    """bf16 [128, 128] as int32 [128, 64]; zeros beyond M and K."""
    pointers, mask = words_at(x_ptr, mb, kb, stride, M, K, gl.int32, layout)
    return gl.load(pointers, mask=mask, other=0)


@gluon.jit
def store_rows(out_ptr, codes, mb, kb, stride, M, K, layout: gl.constexpr):
    """Codes int16 [128, 64], two columns each."""
    pointers, mask = words_at(out_ptr, mb, kb, stride, M, K, gl.int16, layout)
    gl.store(pointers, codes, mask=mask)


@gluon.jit
def store_columns(out_ptr, codes, first, mb, stride, M, K, STEP: gl.constexpr,
                  layout: gl.constexpr):  # fmt: skip
    """Codes int8 [128, 128 / STEP] of columns first, first + STEP ... to rows of `out_ptr`."""
    at = gl.arange(0, 128, gl.SliceLayout(1, layout))
    column = STEP * gl.arange(0, 128 // STEP, gl.SliceLayout(0, layout))
    # Rows of codes are padded to 16 bytes (`formats.empty_whole_codes`): whole words whatever M is.
    last = (M + 15) // 16 * 16 - mb * 128
    corner = out_ptr.to(gl.pointer_type(gl.int8), bitcast=True)
    corner += first.to(gl.int64) * stride + mb * 128
    mask = (at < last)[:, None] & (column < K - first)[None, :]
    codes = gl.convert_layout(codes, layout)
    gl.store(corner + (column * stride)[None, :] + at[:, None], codes, mask=mask)


@gluon.jit
def four(x, inverse):
    """Codes int8 of x in fp32, four neighbours in a thread's registers to a word."""
    x, inverse = gl.broadcast(x, inverse)
    return gl.inline_asm_elementwise(
        FOUR, "=r,f,f,f,f,f,f,f,f", [x, inverse], dtype=gl.int8, is_pure=False, pack=4
    )


@gluon.jit
def word_amax(x, board, ROW: gl.constexpr):
    """Bits of largest magnitudes of words x [128, 64] to the board."""
    bits = x & 0x7FFF7FFF
    amax = gl.reduce(bits, 0, larger_halves)
    board.slice(0, 64).store((amax & 0xFFFF) << 16)
    board.slice(64, 64).store(amax & 0x7FFF0000)
    if ROW:
        amax = gl.reduce(bits, 1, larger_halves)
        board.slice(128, 128).store(gl.maximum(amax & 0xFFFF, amax >> 16) << 16)


@gluon.jit
def split_amax(even, odd, board, ROW: gl.constexpr):
    """`word_amax` of even and odd columns in fp32, [128, 64] each."""
    # Magnitudes are taken while comparing, not kept: they would need as many registers as the tile.
    if ROW:
        amax = gl.reduce(larger_magnitude(even, odd), 1, larger_magnitude)
        board.slice(128, 128).store(amax.to(gl.int32, bitcast=True))
    even, odd = gl.reduce((even, odd), 0, larger_magnitudes)
    board.slice(0, 64).store(even.to(gl.int32, bitcast=True))
    board.slice(64, 64).store(odd.to(gl.int32, bitcast=True))


@gluon.jit
def silu_mul(gate, up):
    """Even and odd columns of silu(gate) * up, fp32 [128, 64] each, of words."""
    return gl.inline_asm_elementwise(
        SILU_MUL, "=f,=f,r,r", [gate, up], dtype=(gl.float32, gl.float32), is_pure=False, pack=1
    )


@gluon.jit
def gate_gradient(gate, up, dh):
    """`silu_mul`'s gradient of gate."""
    return gl.inline_asm_elementwise(
        GATE_GRADIENT, "=f,=f,r,r,r", [gate, up, dh], dtype=(gl.float32, gl.float32),
        is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def up_gradient(gate, dh):
    """`silu_mul`'s gradient of up."""
    return gl.inline_asm_elementwise(
        UP_GRADIENT, "=f,=f,r,r", [gate, dh], dtype=(gl.float32, gl.float32), is_pure=False, pack=1
    )


@gluon.jit
def column_codes(even, odd, board, turned: gl.constexpr, SPLIT: gl.constexpr):
    """Codes of the even and of the odd columns, int8 [128, 64] each, of both in fp32 with SPLIT,
    else of words, `even`."""
    low = factors(board, 0, 64, gl.SliceLayout(0, turned))[None, :]
    high = factors(board, 64, 64, gl.SliceLayout(0, turned))[None, :]
    even = gl.convert_layout(even, turned)
    if SPLIT:
        return four(even, low), four(gl.convert_layout(odd, turned), high)
    else:
        even, low = gl.broadcast(even, low)
        even, high = gl.broadcast(even, high)
        return gl.inline_asm_elementwise(
            COLUMNS, "=r,=r,r,r,r,r,f,f,f,f,f,f,f,f", [even, low, high],
            dtype=(gl.int8, gl.int8), is_pure=False, pack=4,
        )  # fmt: skip


@gluon.jit
def row_codes_of(even, odd, board, wide: gl.constexpr, SPLIT: gl.constexpr):
    """Codes of the rows, two columns to an int16 [128, 64]."""
    inverse = factors(board, 128, 128, gl.SliceLayout(1, wide))[:, None]
    even, inverse = gl.broadcast(even, inverse)
    if SPLIT:
        return gl.inline_asm_elementwise(
            PAIRS, "=r,f,f,f,f,f,f", [even, odd, inverse], dtype=gl.int16, is_pure=False, pack=2
        )
    else:
        return gl.inline_asm_elementwise(
            ROWS, "=r,r,r,f,f", [even, inverse], dtype=gl.int16, is_pure=False, pack=2
        )


@gluon.jit
def write_codes(
    even, odd, board, row_codes, row_scales, col_codes, col_scales, mb, kb, M, K,
    row_stride, row_scale_stride, col_stride, col_scale_stride,
    ROW: gl.constexpr, SPLIT: gl.constexpr, POWER_OF_TWO: gl.constexpr,
    wide: gl.constexpr, turned: gl.constexpr, tall: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Codes and scales of tile (mb, kb), whose largest magnitudes are on the board, to memory; the
    tile in fp32 with SPLIT, else words."""
    divide(
        board, row_scales, col_scales, mb, kb, M, K, row_scale_stride, col_scale_stride,
        ROW, True, POWER_OF_TWO, num_warps,
    )  # fmt: skip
    first, second = column_codes(even, odd, board, turned, SPLIT)
    store_columns(col_codes, first, kb * 128, mb, col_stride, M, K, 2, tall)
    store_columns(col_codes, second, kb * 128 + 1, mb, col_stride, M, K, 2, tall)
    if ROW:
        codes = row_codes_of(even, odd, board, wide, SPLIT)
        store_rows(row_codes, codes, mb, kb, row_stride, M, K, wide)
