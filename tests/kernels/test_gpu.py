"""Kernels on the GPU against the reference: `pytest -m gpu tests/kernels`."""

import pytest
import torch

from r1pipe_kernels import backend
from r1pipe_kernels.formats import E4M3, blocks, empty_codes, empty_scales
from r1pipe_kernels.gemm import ops as gemm
from r1pipe_kernels.gemm import reference as exact
from r1pipe_kernels.grouped import ops as grouped
from r1pipe_kernels.grouped import reference as grouped_reference
from r1pipe_kernels.quantise import ops as quantise
from r1pipe_kernels.quantise import reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
F32, BF16 = torch.float32, torch.bfloat16
LIMIT = {F32: 2e-4, BF16: 2e-3}


def same(got, want):
    """Bitwise, with every NaN alike."""
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.stride() == w.stride()
        g, w = g.float().cpu(), w.float().cpu()
        assert torch.equal(g.isnan(), w.isnan())
        assert torch.equal(g.nan_to_num(0), w.nan_to_num(0))


def matrix(rows, columns, dtype=BF16):
    x = torch.randn(rows, columns) * torch.exp(3 * torch.randn(rows, 1))
    x[rows // 2, : columns // 2] = 0
    x[0, 0], x[rows - 1, columns - 1] = 448.0, -448.0
    if rows > 8:
        x[3] *= 1e-37
        x[4] *= 1e-42
        x[5, 2], x[6, 3], x[7, columns - 1] = float("nan"), float("inf"), -float("inf")
    return x.to(dtype).cuda()


@pytest.mark.parametrize(
    "shape", [(1, 128), (3, 1), (33, 200), (257, 129), (1000, 2112), (4096, 7168)]
)
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_quantisers_equal_the_reference_bit_by_bit(shape, power_of_two, dtype):
    x = matrix(*shape, dtype)
    host = x.cpu()
    same(quantise.quantise_both(x, power_of_two), reference.quantise_both(host, power_of_two))
    same(quantise.quantise_rows(x, power_of_two), reference.quantise_rows(host, power_of_two))
    same(quantise.quantise_columns(x, power_of_two), reference.quantise_columns(host, power_of_two))
    same(quantise.quantise_weight(x, power_of_two), reference.quantise_weight(host, power_of_two))


def test_quantisers_take_strides():
    x = matrix(300, 700)[::2, 3::5]
    same(quantise.quantise_both(x), reference.quantise_both(x.cpu()))
    same(quantise.quantise_weight(x.t()), reference.quantise_weight(x.t().cpu()))


def test_silu_mul_quantise():
    gate, up = torch.randn(300, 1024, dtype=BF16, device="cuda").chunk(2, 1)
    codes, scales, _, _ = quantise.silu_mul_quantise(gate, up)
    want = reference.silu_mul(gate, up)
    got = reference.dequantise(codes, scales.t(), (1, 128))
    assert float((got - want).norm() / want.norm()) < 0.03


@pytest.mark.parametrize("shape", [(576, 7168), (130, 70)])
def test_dequantise(shape):
    codes, scales, _, _ = quantise.quantise_weight(torch.randn(*shape, device="cuda"))
    got = quantise.dequantise(codes, scales, (128, 128), F32)
    assert torch.equal(got, reference.dequantise(codes, scales, (128, 128)))


def operand(rows, columns):
    """Codes and scales over their whole range, not only what a quantiser makes."""
    x = torch.randn(rows, columns, device="cuda") * 60
    codes, scales = empty_codes(rows, columns, x), empty_scales(blocks(columns), rows, x)
    codes.copy_(x)
    return codes, scales.uniform_(0.5, 1.5)


def weight(rows, columns):
    codes, _ = operand(rows, columns)
    return codes, torch.rand(blocks(rows), blocks(columns), device="cuda") + 0.5


def error(got, want):
    return float((got.double() - want).norm() / want.norm())


MS = [1, 7, 64, 65, 128, 129, 200, 333, 1000]
SHAPES = [
    *((m, 576, 2048) for m in MS), *((300, n, 1024) for n in (1, 8, 64, 100, 129, 2112)),
    *((300, 512, k) for k in (1, 16, 128, 144, 2000, 7168)), (4096, 2112, 7168), (4100, 7168, 512),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("shape", SHAPES)
def test_gemm(shape, dtype):
    m, n, k = shape
    a, b = operand(m, k), weight(n, k)
    want = exact.exact(*a, *b, rows=False)
    got = gemm.gemm(*a, *b, dtype)
    assert got.isfinite().all() and error(got, want) <= LIMIT[dtype]


@pytest.mark.parametrize("shape", [*SHAPES, (2112, 7168, 4096), (2112, 7168, 512)])
def test_gemm_rows_and_into(shape):
    m, n, k = shape
    a, b = operand(m, k), operand(n, k)
    want = exact.exact(*a, *b, rows=True)
    for dtype in (F32, BF16):
        assert error(gemm.gemm_rows(*a, *b, dtype), want) <= LIMIT[dtype]
    main = torch.randn(m, n, device="cuda") * want.std()
    total = want + main.double()
    gemm.gemm_rows_into(main, *a, *b)
    assert error(main, total) <= LIMIT[F32]


def test_error_does_not_grow_with_the_reduced_axis():
    errors = []
    for k in (512, 16384):
        a, b = operand(256, k), weight(256, k)
        errors.append(error(gemm.gemm(*a, *b, F32), exact.exact(*a, *b, rows=False)))
    assert errors[1] < 1.3 * errors[0]


def test_repeats_bit_by_bit():
    a, b = operand(1000, 2048), operand(640, 2048)
    first = gemm.gemm_rows(*a, *b, F32)
    assert all(torch.equal(first, gemm.gemm_rows(*a, *b, F32)) for _ in range(20))


def test_zero_blocks_and_nan():
    x, w = torch.randn(300, 512, device="cuda"), torch.randn(256, 512, device="cuda")
    x[1], x[2, 7] = 0, float("nan")
    out = gemm.gemm(*quantise.quantise_rows(x), *quantise.quantise_weight(w)[:2], F32)
    assert (out[1] == 0).all() and out[2].isnan().all()
    assert out[3:].isfinite().all() and out[0].isfinite().all()


def test_triton_twin(monkeypatch):
    a, b = operand(130, 300), weight(200, 300)
    want = exact.exact(*a, *b, rows=False)
    monkeypatch.setenv(backend.VARIABLE, "triton")
    assert error(gemm.gemm(*a, *b, F32), want) <= LIMIT[F32]


COUNTS = [
    [5, 0, 135, 260, 1, 0, 0, 64, 500], [0, 0, 700], [128, 256], [1], [0, 0], [3000, 1, 2000, 17],
    [4] * 256,
]  # fmt: skip


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_grouped_gemm(counts, dtype):
    offsets = torch.tensor([0, *counts]).cumsum(0).int().cuda()
    tokens, experts, n, k = sum(counts), len(counts), 328, 640
    a = operand(max(tokens, 1), k)
    a = a[0][:tokens], a[1][:, :tokens]
    parts = [weight(n, k) for _ in range(experts)]
    b, b_s = torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts])
    got = grouped.grouped_gemm(*a, b, b_s, offsets, dtype)
    want = grouped_reference.gemm(*a, b, b_s, offsets).double()
    assert got.shape == want.shape
    if tokens:
        assert got.isfinite().all() and error(got, want) <= 1.1 * LIMIT[dtype]


@pytest.mark.parametrize("counts", COUNTS)
def test_grouped_reduce(counts):
    offsets = torch.tensor([0, *counts]).cumsum(0).int().cuda()
    tokens, experts, m, n = sum(counts), len(counts), 200, 264
    dy, x = torch.randn(tokens, m, device="cuda"), torch.randn(tokens, n, device="cuda")
    a, b = grouped.quantise_columns(dy, offsets), grouped.quantise_columns(x, offsets)
    same(a, grouped_reference.quantise_columns(dy.cpu(), offsets.cpu()))
    main = torch.ones(experts, m, n, device="cuda")
    grouped.grouped_gemm_reduce_into(main, *a, *b, offsets)
    want = grouped_reference.gemm_reduce(*a, *b, offsets).double() + 1
    assert error(main, want) <= LIMIT[F32]


def pair(rows, features):
    return torch.randn(rows, 2 * features, device="cuda", dtype=BF16).chunk(2, 1)


def near_codes(got, want):
    """Codes and scales of values that differ in the last bits of an exponential."""
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.stride() == w.stride()
        is_scale = g.dtype == F32
        g, w = g.float().cpu(), w.float().cpu()
        if is_scale:
            # A block of one value has a scale that can be the difference of two like numbers.
            largest = w.abs().max().item() if w.numel() else 0.0
            assert torch.allclose(g, w, rtol=1e-5, atol=1e-6 * largest)
        elif g.numel():
            # One step of E4M3 where a value lies at the border of two codes.
            assert ((g - w).abs() <= w.abs() / 4 + 2**-8).all()
            assert (g != w).float().mean() < 2e-3


@pytest.mark.parametrize("shape", [(1, 128), (130, 256), (1000, 1536), (33, 96)])
def test_silu_mul_forward_and_backward(shape):
    gate, up = pair(*shape)
    dh = torch.randn(*shape, device="cuda", dtype=BF16)
    host = [t.cpu() for t in (dh, gate, up)]
    near_codes(quantise.silu_mul_quantise(gate, up), reference.silu_mul_quantise(*host[1:]))
    near_codes(
        quantise.silu_mul_quantise_rows(gate, up), reference.silu_mul_quantise_rows(*host[1:])
    )
    near_codes(
        quantise.silu_mul_backward_quantise(dh, gate, up),
        reference.silu_mul_backward_quantise(*host),
    )


@pytest.mark.parametrize("shape", [(3, 200, 300), (1, 128, 128), (8, 2048, 7168), (5, 1, 7)])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_weights_of_experts(shape, dtype):
    w = torch.randn(*shape, device="cuda", dtype=dtype)
    same(quantise.quantise_weights(w), reference.quantise_weights(w.cpu()))


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("features", [264, 256])
def test_grouped_quantisers(counts, features):
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    there, tokens = offsets.cuda(), sum(counts)
    x = matrix(max(tokens, 1), features)[:tokens]
    # Rows of a matrix that ends with the last group: poison behind it would show.
    same(
        grouped.quantise_both(x, there), grouped_reference.quantise_both(x.cpu(), offsets)
    )  # fmt: skip
    gate, up = pair(max(tokens, 1), features)
    gate, up = gate[:tokens], up[:tokens]
    dh = torch.randn(tokens, features, device="cuda", dtype=BF16)
    host = [t.cpu() for t in (dh, gate, up)]
    near_codes(
        grouped.silu_mul_quantise(gate, up, there),
        grouped_reference.silu_mul_quantise(*host[1:], offsets),
    )
    near_codes(
        grouped.silu_mul_backward_quantise(dh, gate, up, there),
        grouped_reference.silu_mul_backward_quantise(*host, offsets),
    )


def test_replays_in_a_cuda_graph():
    x = torch.randn(512, 1024, device="cuda", dtype=BF16)
    w = quantise.quantise_weight(torch.randn(256, 1024, device="cuda"))[:2]
    run = lambda: gemm.gemm(*quantise.quantise_rows(x), *w, F32)  # noqa: E731
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(out, run())


def test_codes_of_every_value_multiply_exactly():
    codes = torch.arange(256, dtype=torch.uint8, device="cuda").view(E4M3)
    codes = codes[~codes.float().isnan()]
    a = empty_codes(64, 128, codes.float()).fill_(0)
    a.view(torch.uint8)[:, 0] = codes.view(torch.uint8)[:64]
    ones = torch.ones(1, 64, device="cuda")
    b = torch.zeros(64, 128, device="cuda")
    b[:, 0] = 1
    out = gemm.gemm(a, ones, b.to(E4M3), torch.ones(1, 1, device="cuda"), F32)
    assert torch.equal(out[:, 0], codes.float()[:64])
