"""The packed quantisers' PTX for Hopper, run on the CPU, makes the codes of the reference."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if torch.cuda.is_available():
    pytest.skip("test_gpu.py runs the kernels themselves", allow_module_level=True)

from r1pipe_kernels import backend
from r1pipe_kernels.formats import E4M3
from r1pipe_kernels.quantise import gluon_nvidia, ops, packed_sm90, reference
from r1pipe_kernels.testing import aot, ptx

pytestmark = pytest.mark.slow
aot.without_gpu()
BF16, F32 = torch.bfloat16, torch.float32
SHAPES = [(149, 160, False), (1, 32, False), (272, 256, True)]
"""Rows, columns, whether scales are powers of two."""


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "gluon")
    for module in (gluon_nvidia, packed_sm90):
        monkeypatch.setattr(module, "launch", ptx.launch)


def matrix(rows, columns, dtype=BF16):
    """Numbers of all sizes, some of them none, in rows with a gap between."""
    torch.manual_seed(rows)
    x = torch.randn(rows, columns + 32) * torch.exp(2 * torch.randn(rows, 1))
    x *= torch.exp(2 * torch.randn(columns + 32))
    x[:, 3] = 0
    x[:, 5] *= 1e-38
    x[rows // 2, 7] = float("nan")
    x[rows // 3, columns - 2] = float("inf")
    return x.to(dtype)[:, :columns]


def bits(x):
    """Codes and scales as integers, one for all that are no numbers."""
    raw = x.contiguous().view(torch.uint8 if x.dtype == E4M3 else torch.int32)
    return torch.where(x.float().isnan(), -1, raw.int())


def same(got, want):
    for g, w in zip(got, want, strict=True):
        assert g.stride() == w.stride() and torch.equal(bits(g), bits(w))


def near(got, want):
    """One step of E4M3 where a value lies at the border of two codes."""
    for g, w in zip(got, want, strict=True):
        if g.dtype == F32:
            largest = w.nan_to_num(0, 0, 0).abs().max().item()
            assert torch.allclose(g, w, rtol=1e-5, atol=1e-6 * largest, equal_nan=True)
        else:
            assert (bits(g) != bits(w)).float().mean() < 3e-3
            g, w = g.float().nan_to_num(0), w.float().nan_to_num(0)
            assert ((g - w).abs() <= w.abs() / 4 + 2**-8).all()


@pytest.mark.parametrize(("rows", "columns", "power_of_two"), SHAPES)
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_matrices(rows, columns, power_of_two, dtype):
    x = matrix(rows, columns, dtype)
    same(ops.quantise_both(x, power_of_two), reference.quantise_both(x, power_of_two))
    same(ops.quantise_columns(x, power_of_two), reference.quantise_columns(x, power_of_two))


@pytest.mark.parametrize(("rows", "columns", "power_of_two"), SHAPES)
def test_weights(rows, columns, power_of_two):
    w = torch.stack([matrix(rows, columns), 3 * matrix(rows, columns)])
    same(ops.quantise_weights(w, power_of_two), reference.quantise_weights(w, power_of_two))


@pytest.mark.parametrize("rows", [149, 1])
def test_gated(rows):
    # Gates where the exponential overflows, and both infinities.
    gate, up, dh = (scale * torch.randn(rows, 256) for scale in (30, 1, 1e-3))
    gate[0, :5] = torch.tensor([-88.5, -87.9, -200.0, float("inf"), float("-inf")])
    gate, up, dh = gate.to(BF16), up.to(BF16), dh.to(BF16)
    near(ops.silu_mul_quantise(gate, up), reference.silu_mul_quantise(gate, up))
    near(
        ops.silu_mul_backward_quantise(dh, gate, up),
        reference.silu_mul_backward_quantise(dh, gate, up),
    )
