"""What the Hopper kernels compile to: tensor-core instructions, no spills, shared memory that fits.

Runs on any machine with triton; a register spilled in the inner loop costs more than any other
single thing that can go wrong with these kernels, and no numeric test sees it.
"""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if torch.cuda.is_available():
    pytest.skip("compiles for sm_90 by itself; here is a GPU driver", allow_module_level=True)

from r1pipe_kernels.formats import E4M3
from r1pipe_kernels.gemm import gluon_sm90, launch, tiles
from r1pipe_kernels.grouped import gluon_sm90 as grouped
from r1pipe_kernels.quantise import gluon_nvidia as quantise
from r1pipe_kernels.quantise import packed_sm90 as packed
from r1pipe_kernels.quantise import pipelined_sm90 as pipelined
from r1pipe_kernels.quantise import triton_impl as twins
from r1pipe_kernels.testing import aot

pytestmark = pytest.mark.slow
aot.without_gpu()
M, N, K, E = 4096, 7168, 2048, 8


def codes(rows, columns):
    return torch.empty(rows, columns, dtype=E4M3)


def described(matrix, block, swizzle=128):
    return launch.descriptor(matrix, block, swizzle).checked()


def compile_gemm(tile, vector, dtype, add):
    a, b, c = codes(M, K), codes(N, K), torch.empty(M, N, dtype=dtype)
    a_scales = torch.empty(K // 128, M)
    b_scales = torch.empty(K // 128, N) if vector else torch.empty(N // 128, K // 128)
    by_copy = dtype == torch.bfloat16 and not add
    a_desc = described(a, [64, 128])
    kernel = gluon_sm90.gemm.warmup(
        a_desc, described(b, [tile.columns, 128]), described(a_scales, [1, 64], 0),
        described(b_scales, [1, tile.columns], 0) if vector else a_desc,
        described(c, [64, tile.columns]) if by_copy else a_desc,
        c, b_scales, M, N, K, b_scales.stride(0), N, 20, 2,
        STRIPS=tile.strips, BN=tile.columns, STAGES=tile.stages, GROUP=tile.group, VECTOR=vector,
        TMA_STORE=by_copy, ADD=add, REGS=tile.registers, num_warps=4, grid=(132,),
    )  # fmt: skip
    return aot.resources(kernel)


def gate(found, products, stack=0):
    assert found.stack <= stack
    assert found.count["QGMMA"] == products
    assert found.count["UTMALDG"] > 0
    assert found.shared <= tiles.SHARED_BYTES


@pytest.mark.parametrize("m", [64, 128, 4096])
@pytest.mark.parametrize("n", [2112, 24576])
def test_forward(m, n):
    tile = tiles.choose_tile(m, n, K, False, 132)
    found = compile_gemm(tile, False, torch.bfloat16, add=False)
    # Four instructions of depth 32 a warpgroup; one FFMA an element and no product beside it.
    gate(found, 4 * tile.strips)
    assert found.count["LDL"] == found.count["STL"] == 0
    assert found.count["FFMA"] == tile.strips * tile.columns // 2
    assert found.count["FMUL"] <= 2 * tile.strips
    assert found.shared <= tile.shared_bytes(False, 2)


@pytest.mark.parametrize(
    ("dtype", "add"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
)
def test_weight_gradient(dtype, add):
    tile = tiles.choose_tile(M, N, K, True, 132)
    found = compile_gemm(tile, True, dtype, add)
    gate(found, 4 * tile.strips)
    assert found.count["LDL"] == found.count["STL"] == 0
    assert (found.count["REDG"] > 0) == add


def compile_grouped(tile):
    a, b, c = codes(M, K), codes(E * N, K), torch.empty(M, N, dtype=torch.bfloat16)
    kernel = grouped.rows_kernel.warmup(
        described(a, [64, 128]), described(b, [tile.columns, 128]),
        described(c, [64, tile.columns]), c, torch.empty(K // 128, M),
        torch.empty(E, N // 128, K // 128), torch.empty(E + 1, dtype=torch.int32),
        E, N, K, M, K // 128, N * K // 128**2, N,
        STRIPS=tile.strips, BN=tile.columns, STAGES=tile.stages, TMA_STORE=True, REGS=160,
        num_warps=4, grid=(132,),
    )  # fmt: skip
    return aot.resources(kernel)


@pytest.mark.parametrize("tile", [tiles.Tile(3, 128, 4), tiles.Tile(1, 128, 7)])
def test_grouped_forward(tile):
    gate(compile_grouped(tile), 4 * tile.strips)


@pytest.mark.parametrize(
    ("dtype", "add"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
)
def test_grouped_weight_gradient(dtype, add):
    a, b, c = codes(N, M), codes(K, M), torch.empty(E, N, K, dtype=dtype)
    scales = [torch.empty(M // 128 + E, size) for size in (N, K)]
    kernel = grouped.reduce_kernel.warmup(
        described(a, [64, 128]), described(b, [128, 128]),
        described(scales[0], [1, 64], 0), described(scales[1], [1, 128], 0), c,
        torch.empty(E + 1, dtype=torch.int32), E, N, K, K, N * K,
        STRIPS=3, BN=128, STAGES=5, ADD=add, REGS=152, num_warps=4, grid=(132,),
    )  # fmt: skip
    # Two copies of the loop; four words kept on the stack outside them.
    gate(aot.resources(kernel), 24, stack=16)


def fits(kernel, warps, ctas):
    """No word of the tile leaves the registers, and `ctas` tiles lie on a multiprocessor."""
    found = aot.resources(kernel)
    assert found.stack == found.count["LDL"] == found.count["STL"] == 0
    assert 65536 // (-(-found.registers // 8) * 8 * 32 * warps) >= ctas
    # The processor keeps 1 KiB for itself with each CTA.
    assert 233472 // (found.shared + 1024) >= ctas


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize(
    ("row", "mode", "ctas"),
    [
        (True, packed.PLAIN, 4),
        (False, packed.PLAIN, 5),
        (True, packed.SILU, 3),
        (True, packed.SILU_BACKWARD, 3),
    ],
)
def test_packed_quantisers_of_bf16(row, mode, ctas, power_of_two):
    x, n = torch.empty(M, K, dtype=torch.bfloat16), 2 * K if mode == packed.SILU_BACKWARD else K
    geometry = packed.geometry(x.dtype, row, mode)
    kernel = packed.bf16_kernel.warmup(
        x, x, x, codes(M, n), torch.empty(n // 128, M), codes(n, M), torch.empty(32, n),
        M, K, K, K, K, n, M, M, n, ROW=row, MODE=mode, POWER_OF_TWO=power_of_two,
        **geometry._asdict(), grid=(1,),
    )  # fmt: skip
    fits(kernel, geometry.num_warps, ctas)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("mode", [packed.SILU, packed.SILU_BACKWARD])
def test_pipelined_quantisers(mode, power_of_two):
    x, n = torch.empty(M, K, dtype=torch.bfloat16), mode * K
    tile, shape = described(x, (128, 128)), pipelined.PIPELINES[mode]
    kernel = pipelined.pipelined_kernel.warmup(
        tile, tile, tile, codes(M, n), torch.empty(n // 128, M), codes(n, M), torch.empty(32, n),
        M, K, 4, 32, 16, n, M, M, n, MODE=mode, POWER_OF_TWO=power_of_two,
        **shape.geometry._asdict(), grid=(1,),
    )  # fmt: skip
    fits(kernel, shape.geometry.num_warps, shape.ctas)


@pytest.mark.parametrize("row", [False, True])
def test_packed_quantisers_of_fp32(row):
    kernel = packed.fp32_kernel.warmup(
        torch.empty(M, K), codes(M, K), torch.empty(K // 128, M), codes(K, M), torch.empty(32, K),
        M, K, K, K, M, M, K, ROW=row, POWER_OF_TWO=False, **packed.FP32._asdict(), grid=(1,),
    )  # fmt: skip
    fits(kernel, packed.FP32.num_warps, 2)


def test_packed_quantiser_of_weights():
    kernel = packed.bf16_weight_kernel.warmup(
        torch.empty(E, N, K, dtype=torch.bfloat16), codes(N, K), torch.empty(56, 16), codes(K, N),
        torch.empty(16, 56), N, K, N * K, K, N * K, K, N * K, N, 56, 16, POWER_OF_TWO=False,
        **packed.WEIGHTS._asdict(), grid=(56, 16, E),
    )  # fmt: skip
    fits(kernel, packed.WEIGHTS.num_warps, 4)


def compile_tile(dtype, mode, groups):
    """As `columns` launches it; strides are those of whole matrices."""
    x, n = torch.empty(M, K, dtype=dtype), 2 * K if mode == packed.SILU_BACKWARD else K
    kernel = quantise.tile_kernel.warmup(
        x, x, x, codes(M, n), torch.empty(n // 128, M), codes(n, M), torch.empty(32 + groups, n),
        torch.empty(groups + 1, dtype=torch.int32), M, K, groups, M, K, K, K, n, M, M, n,
        ROW=True, MODE=mode, GROUPS=groups, POWER_OF_TWO=False,
        num_warps=16 if groups or (mode and dtype == torch.float32) else 8, maxnreg=128,
        grid=(32 + groups, n // 128),
    )  # fmt: skip
    return aot.resources(kernel)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mode", [packed.PLAIN, packed.SILU, packed.SILU_BACKWARD])
@pytest.mark.parametrize("groups", [0, 256])
def test_both_layouts_keep_their_tile_in_registers(dtype, mode, groups):
    found = compile_tile(dtype, mode, groups)
    # Finding a block among the groups leaves a few words on the stack, outside the tile; of the
    # gradients of both halves, in half as many warps, some words of the tile lie there.
    stack = {packed.PLAIN: 0, packed.SILU: 16, packed.SILU_BACKWARD: 144}[mode]
    limit = 16 if groups else 0 if dtype == torch.float32 else stack
    assert found.stack <= limit
    assert found.count["LDL"] <= limit // 2


def test_weights_keep_their_tile_in_registers():
    kernel = quantise.weight_kernel.warmup(
        torch.empty(E, N, K), codes(N, K), torch.empty(56, 16), codes(K, N), torch.empty(16, 56),
        N, K, N * K, K, N * K, K, N * K, N, 56, 16, POWER_OF_TWO=False, num_warps=8, maxnreg=128,
        grid=(56, 16, E),
    )  # fmt: skip
    found = aot.resources(kernel)
    assert found.stack == 0 and found.count["LDL"] == 0


def test_triton_twins_compile_without_spills():
    x, out, scales = torch.empty(M, K, dtype=torch.bfloat16), codes(M, K), torch.empty(16, M)
    wide, w = torch.empty(M, 2 * K), torch.empty(E, M, K)
    compiled = [
        twins.rows_kernel.warmup(
            x, x, out, scales, M, K, K, 1, K, 1, K, M, ROWS=32, SILU=silu, POWER_OF_TWO=False,
            grid=(1,),
        )
        for silu in (False, True)
    ]  # fmt: skip
    compiled += [
        twins.silu_mul_kernel.warmup(x, x, wide, M, K, K, K, 1, 1, ROWS=32, grid=(1,)),
        twins.silu_mul_backward_kernel.warmup(
            x, x, x, wide, M, K, K, K, K, 1, 1, 1, ROWS=32, grid=(1,)
        ),
        twins.weight_kernel.warmup(
            w, out, torch.empty(E, 32, 16), M, K, M * K, K, 1, M * K, K, 32, 16, False,
            num_warps=8, grid=(1,),
        ),
    ]  # fmt: skip
    assert all(aot.resources(kernel).stack == 0 for kernel in compiled)
