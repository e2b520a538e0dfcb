"""Grouped products of experts: any counts, no padding."""

import pytest
import torch

from r1pipe_kernels.formats import E4M3, blocks
from r1pipe_kernels.gemm import reference as dense
from r1pipe_kernels.grouped import ops, reference
from r1pipe_kernels.quantise import ops as quantise

COUNTS = pytest.mark.parametrize(
    "counts", [[5, 0, 135, 260, 1], [0, 0, 7], [128, 256], [1], [0], [64, 64, 64]]
)


def offsets_of(counts):
    return torch.tensor([0, *counts]).cumsum(0).int()


def experts(count, n, k):
    codes, scales = torch.zeros(count, n, k, dtype=E4M3), torch.zeros(count, blocks(n), blocks(k))
    for e in range(count):
        codes[e], scales[e], _, _ = quantise.quantise_weight(torch.randn(n, k))
    return codes, scales


@COUNTS
def test_each_row_meets_its_expert(counts):
    offsets, n, k = offsets_of(counts), 136, 256
    a, a_s = quantise.quantise_rows(torch.randn(sum(counts), k))
    b, b_s = experts(len(counts), n, k)
    out = ops.grouped_gemm(a, a_s, b, b_s, offsets, torch.float32)
    for e, (start, end) in enumerate(reference.bounds(offsets)):
        want = dense.gemm(a[start:end], a_s[:, start:end], b[e], b_s[e], rows=False)
        assert torch.equal(out[start:end], want)


@COUNTS
def test_weight_gradients_sum_over_the_tokens_of_the_expert(counts):
    offsets, m, n = offsets_of(counts), 48, 80
    dy, x = torch.randn(sum(counts), m), torch.randn(sum(counts), n)
    a, b = ops.quantise_columns(dy, offsets), ops.quantise_columns(x, offsets)
    out = torch.ones(len(counts), m, n)
    ops.grouped_gemm_reduce_into(out, *a, *b, offsets)
    for e, (start, end) in enumerate(reference.bounds(offsets)):
        left = quantise.quantise_columns(dy[start:end]) if end > start else None
        if left is None:
            assert (out[e] == 1).all()
            continue
        right = quantise.quantise_columns(x[start:end])
        want = dense.exact(*left, *right, rows=True) + 1
        assert float((out[e] - want).norm() / want.norm()) < 1e-5


def test_wrong_offsets_are_refused_by_name():
    a, a_s = quantise.quantise_rows(torch.randn(4, 128))
    b, b_s = experts(2, 128, 128)
    with pytest.raises(ValueError, match=r"grouped_gemm: offsets must be int32 \[3\]"):
        ops.grouped_gemm(a, a_s, b, b_s, torch.tensor([0, 2, 4]), torch.float32)


def test_operators_are_traceable():
    offsets = offsets_of([5, 0, 28])
    x = torch.randn(33, 70)
    codes = ops.quantise_columns(x, offsets)
    rows, experts_ = quantise.quantise_rows(x), quantise.quantise_weights(torch.randn(3, 40, 70))
    for operator, inputs in (
        (ops.quantise_columns, (x, offsets)),
        (ops.quantise_both, (x, offsets)),
        (ops.silu_mul_quantise, (x, x, offsets)),
        (ops.silu_mul_backward_quantise, (x, x, x, offsets)),
        (ops.grouped_gemm, (*rows, *experts_[:2], offsets, torch.float32)),
        (ops.grouped_gemm_reduce, (*codes, *codes, offsets, torch.float32)),
    ):
        # Its other checks multiply the inputs by a number, which torch cannot do with codes.
        coded = inputs[0].dtype == E4M3
        checks = "test_faketensor" if coded else ("test_schema", "test_faketensor")
        torch.library.opcheck(operator, inputs, test_utils=checks)


@COUNTS
def test_weight_gradients_written_equal_those_added_to_zeros(counts):
    offsets = offsets_of(counts)
    dy, x = torch.randn(sum(counts), 48), torch.randn(sum(counts), 80)
    _, _, a, a_s = ops.quantise_both(dy, offsets)
    b = ops.quantise_columns(x, offsets)
    out = torch.zeros(len(counts), 48, 80)
    ops.grouped_gemm_reduce_into(out, a, a_s, *b, offsets)
    assert torch.equal(ops.grouped_gemm_reduce(a, a_s, *b, offsets, torch.float32), out)
