"""Run by `test_interpreter` in a process with TRITON_INTERPRET=1: the Triton kernels on the CPU."""

import pytest
import torch

from r1pipe_kernels.gemm import reference as exact
from r1pipe_kernels.gemm import triton_impl as gemm
from r1pipe_kernels.grouped import reference as grouped_reference
from r1pipe_kernels.grouped import triton_impl as grouped
from r1pipe_kernels.quantise import reference
from r1pipe_kernels.quantise import triton_impl as kernels
from r1pipe_kernels.testing.interpreter import correct

correct()
SHAPES = pytest.mark.parametrize("shape", [(1, 128), (33, 200), (130, 129)])
POWERS = pytest.mark.parametrize("power_of_two", [False, True])


def same(got, want):
    """Bitwise, with every NaN alike."""
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.stride() == w.stride()
        g, w = g.float(), w.float()
        assert torch.equal(g.isnan(), w.isnan())
        assert torch.equal(g.nan_to_num(0), w.nan_to_num(0))


def matrix(rows, columns, dtype=torch.float32):
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 3
    x[rows // 2, : columns // 2] = 0
    x[0, 0], x[rows - 1, columns - 1] = 448.0, -448.0
    if rows > 8:
        x[3] *= 1e-37
        x[4] *= 1e-42
        x[5, 2], x[6, 3] = float("nan"), float("inf")
    return x.to(dtype)


@SHAPES
@POWERS
def test_quantisers_equal_the_reference_bit_by_bit(shape, power_of_two):
    x = matrix(*shape)
    same(kernels.quantise_both(x, power_of_two), reference.quantise_both(x, power_of_two))
    same(kernels.quantise_rows(x, power_of_two), reference.quantise_rows(x, power_of_two))
    same(kernels.quantise_weight(x, power_of_two), reference.quantise_weight(x, power_of_two))


def test_strided_and_half_precision_inputs():
    x = matrix(40, 300).t()
    same(kernels.quantise_both(x), reference.quantise_both(x))
    x = matrix(20, 150, torch.bfloat16)
    same(kernels.quantise_columns(x), reference.quantise_columns(x))


def test_silu_mul():
    gate, up = torch.randn(20, 260).chunk(2, 1)
    dh = torch.randn(20, 130)
    for got, want in zip(
        (*kernels.silu_mul_quantise(gate, up), *kernels.silu_mul_backward_quantise(dh, gate, up)),
        (
            *reference.silu_mul_quantise(gate, up),
            *reference.silu_mul_backward_quantise(dh, gate, up),
        ),
        strict=True,
    ):
        assert torch.allclose(got.float(), want.float(), rtol=2**-3, atol=2**-9)


def test_weights_of_experts():
    w = torch.stack([matrix(130, 70), matrix(130, 70) * 3])
    same(kernels.quantise_weights(w), reference.quantise_weights(w))


def test_dequantise():
    codes, scales, _, _ = reference.quantise_weight(torch.randn(200, 300))
    want = reference.dequantise(codes, scales, (128, 128))
    assert torch.equal(kernels.dequantise(codes, scales, (128, 128)), want)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("shape", [(1, 128, 128), (70, 136, 300)])
def test_gemm(shape, rows):
    m, n, k = shape
    a = reference.quantise_rows(torch.randn(m, k))
    w = torch.randn(n, k)
    b = reference.quantise_rows(w) if rows else reference.quantise_weight(w)[:2]
    want = exact.exact(*a, *b, rows=rows)
    c = torch.ones(m, n)
    gemm.gemm(*a, *b, c, rows, add=True)
    assert float((c - 1 - want).norm() / want.norm()) < 1e-6


def test_grouped_quantiser():
    offsets = torch.tensor([0, 5, 5, 140, 275], dtype=torch.int32)
    x = matrix(275, 70)
    got, want = grouped.quantise_columns(x, offsets), grouped_reference.quantise_columns(x, offsets)
    same(got, want)
    same(grouped.quantise_both(x, offsets), grouped_reference.quantise_both(x, offsets))
