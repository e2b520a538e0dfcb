"""The quantisers' definition: codes, scales, and what happens at the edges of E4M3."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe_kernels.formats import AMAX_FLOOR, E4M3, blocks
from r1pipe_kernels.quantise import ops, reference

POWERS = pytest.mark.parametrize("power_of_two", [False, True])


def restored(codes, scales):
    """fp32 values of rows of 1 x 128 blocks."""
    return reference.dequantise(codes, scales.t(), (1, 128))


@POWERS
@settings(deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_every_element_comes_back_within_half_a_step(power_of_two, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    x *= torch.exp(8 * torch.randn(rows, 1, generator=generator))
    codes, scales = ops.quantise_rows(x, power_of_two)
    wide = scales.t().repeat_interleave(128, 1)[:, :columns]
    # Half a step of a normal code is 2^-4 of it, of a subnormal one 2^-10 of the scale; the
    # scale itself is off by a rounding.
    bound = torch.maximum(2.0**-4 * x.abs(), 2.0**-10 * wide) * (1 + 1e-6)
    assert ((restored(codes, scales) - x).abs() <= bound).all()


def test_scale_is_the_largest_magnitude_over_448():
    x = torch.zeros(2, 256)
    x[0, 3], x[0, 200], x[1, 130] = -896.0, 1.0, 7.0
    _, scales = ops.quantise_rows(x)
    assert scales.tolist() == [[2.0, 1.0], [pytest.approx(1 / 448), pytest.approx(7 / 448)]]


def test_largest_magnitudes_become_448_with_their_sign():
    x = torch.tensor([[3.7, -3.7, 0.0]])
    codes, _ = ops.quantise_rows(x)
    assert codes.float().tolist() == [[448.0, -448.0, 0.0]]


@POWERS
def test_blocks_of_zeros_give_zeros(power_of_two):
    codes, scales = ops.quantise_rows(torch.zeros(3, 256), power_of_two)
    assert (codes.float() == 0).all() and (scales == 1).all()


@POWERS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_block_with_nan_or_inf_comes_back_as_nan_and_no_other_does(power_of_two, bad):
    x = torch.randn(2, 256)
    x[0, 5] = bad
    back = restored(*ops.quantise_rows(x, power_of_two))
    assert back[0, :128].isnan().all() or (
        back[0, 5].isnan() and not back[0, :128].isfinite().all()
    )
    assert back[0, 128:].isfinite().all() and back[1].isfinite().all()


@pytest.mark.parametrize("size", [1e-45, 1e-38, AMAX_FLOOR / 2, AMAX_FLOOR, 1e-30, 3e38])
@POWERS
def test_tiny_and_huge_blocks_stay_finite(power_of_two, size):
    x = torch.full((1, 128), size)
    codes, scales = ops.quantise_rows(x, power_of_two)
    assert scales.isfinite().all() and (scales >= torch.finfo(torch.float32).tiny).all()
    back = restored(codes, scales)
    assert ((back - x).abs() <= torch.maximum(x / 16, scales[0, 0] * 2.0**-10)).all()


def test_power_of_two_scales_are_the_next_power_and_divide_exactly():
    x = torch.randn(64, 256)
    _, plain = ops.quantise_rows(x)
    _, rounded = ops.quantise_rows(x, power_of_two=True)
    assert (rounded.log2() == rounded.log2().round()).all()
    assert (rounded >= plain).all() and (rounded < 2 * plain).all()


def test_columns_are_the_rows_of_the_transpose():
    x = torch.randn(150, 70).bfloat16()
    codes, scales = ops.quantise_columns(x)
    want, want_scales = ops.quantise_rows(x.t().contiguous())
    assert codes.shape == (70, 150) and scales.shape == (2, 70)
    assert torch.equal(codes.float(), want.float()) and torch.equal(scales, want_scales)


def test_both_layouts_at_once_equal_each_alone():
    x = torch.randn(130, 129)
    for got, want in zip(
        ops.quantise_both(x), (*ops.quantise_rows(x), *ops.quantise_columns(x)), strict=True
    ):
        assert torch.equal(got.float(), want.float())


def test_strided_input_equals_its_copy():
    x = torch.randn(40, 600)[::2, ::3]
    got, want = ops.quantise_both(x), ops.quantise_both(x.contiguous())
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(got, want, strict=True))


def test_weights_have_one_scale_a_square_and_their_transpose_the_same_codes():
    w = torch.randn(200, 300)
    codes, scales, transposed, t_scales = ops.quantise_weight(w)
    assert scales.shape == (2, 3) and t_scales.shape == (3, 2)
    assert torch.equal(scales, t_scales.t())
    assert torch.equal(codes.float(), transposed.float().t())
    assert scales[1, 2] == w[128:, 256:].abs().max() / 448


def test_rows_of_codes_start_at_multiples_of_16_bytes():
    for columns in (1, 15, 16, 17, 200):
        codes, _ = ops.quantise_rows(torch.randn(5, columns))
        assert codes.shape == (5, columns) and codes.stride(0) % 16 == 0


def test_silu_mul_quantise_equals_its_parts():
    gate, up = torch.randn(20, 260).bfloat16().chunk(2, -1)
    got = ops.silu_mul_quantise(gate, up)
    y = torch.nn.functional.silu(gate.float()) * up.float()
    back = restored(got[0], got[1])
    assert torch.allclose(back, y, atol=2e-3, rtol=2**-4 + 1e-5)


def test_dequantise_reads_a_grid_that_the_rows_do_not_fill():
    rows, columns = 576, 300
    codes = torch.randn(rows, columns).to(E4M3)
    scales = torch.rand(5, 3) + 0.5
    got = ops.dequantise(codes, scales, (128, 128), torch.float32)
    for r, c in [(0, 0), (127, 127), (128, 128), (575, 299), (512, 256)]:
        assert got[r, c] == codes[r, c].float() * scales[r // 128, c // 128]
    with pytest.raises(ValueError, match=r"need \(5, 3\) scales, got \(4, 3\)"):
        ops.dequantise(codes, scales[:4], (128, 128))


def test_relative_error_on_gaussian_data_is_that_of_the_recipe():
    torch.manual_seed(0)
    x = torch.randn(256, 1024)
    for values, want in (
        (restored(*ops.quantise_rows(x)), 0.0257),
        (restored(*ops.quantise_rows(x, True)), 0.0267),
    ):
        assert float((values - x).norm() / x.norm()) == pytest.approx(want, abs=0.0006)


def test_what_is_no_matrix_of_floats_is_refused_by_name():
    with pytest.raises(ValueError, match="quantise_rows: expected a matrix"):
        ops.quantise_rows(torch.randn(3))
    with pytest.raises(ValueError, match="quantise_weight: expected bf16, fp16 or fp32"):
        ops.quantise_weight(torch.ones(4, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"quantise_weights: expected \[E, N, K\]"):
        ops.quantise_weights(torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"gate is \(4, 4\), up \(4, 2\)"):
        ops.silu_mul_quantise(torch.ones(4, 4), torch.ones(4, 2))


def test_gradients_of_silu_mul_are_those_of_autograd():
    dh, gate, up = (torch.randn(20, 130) for _ in range(3))
    gate.requires_grad_()
    up.requires_grad_()
    y = torch.nn.functional.silu(gate) * up
    want = torch.cat(torch.autograd.grad(y, (gate, up), dh), 1)
    got = reference.silu_mul_backward(dh, gate.detach(), up.detach())
    assert torch.allclose(got, want, atol=1e-6, rtol=1e-5)
    codes = ops.silu_mul_backward_quantise(dh, gate.detach(), up.detach())
    for a, b in zip(codes, ops.quantise_both(got), strict=True):
        assert torch.equal(a.float(), b.float())
    rows = ops.silu_mul_quantise_rows(gate.detach(), up.detach())
    for a, b in zip(rows, ops.silu_mul_quantise(gate.detach(), up.detach())[:2], strict=True):
        assert torch.equal(a.float(), b.float())


@pytest.mark.parametrize("value", [-1e4, -100.0, 100.0, 1e4])
def test_saturated_gates_have_finite_gradients(value):
    x = torch.full((1, 8), value)
    assert reference.silu_mul(x, torch.ones(1, 8)).isfinite().all()
    got = reference.silu_mul_backward(torch.ones(1, 8), x, torch.ones(1, 8))
    assert got.isfinite().all() and (got[:, :8] == float(value > 0)).all()


def test_weights_of_experts_are_quantised_one_by_one():
    w = torch.randn(3, 130, 200)
    got = ops.quantise_weights(w)
    assert got[0].stride(0) == 130 * got[0].stride(1) and got[0].stride(1) % 16 == 0
    for e in range(3):
        for a, b in zip(got, ops.quantise_weight(w[e]), strict=True):
            assert torch.equal(a[e].float(), b.float())


PAIR = (torch.randn(33, 70), torch.randn(33, 70))


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        (ops.quantise_rows, PAIR[:1]),
        (ops.quantise_columns, PAIR[:1]),
        (ops.quantise_both, PAIR[:1]),
        (ops.quantise_weight, PAIR[:1]),
        (ops.quantise_weights, (torch.randn(2, 33, 70),)),
        (ops.silu_mul_quantise, PAIR),
        (ops.silu_mul_quantise_rows, PAIR),
        (ops.silu_mul_backward_quantise, (PAIR[0], *PAIR)),
    ],
)
def test_operators_are_traceable(operator, inputs):
    torch.library.opcheck(operator, inputs)


def test_empty_inputs_give_empty_outputs():
    codes, scales = ops.quantise_rows(torch.randn(0, 256))
    assert codes.shape == (0, 256) and scales.shape == (blocks(256), 0)
