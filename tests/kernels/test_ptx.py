"""The packed quantisers' PTX for Hopper, run on the CPU, makes the codes of the reference."""

import math

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if torch.cuda.is_available():
    pytest.skip("test_gpu.py runs the kernels themselves", allow_module_level=True)

from r1pipe_kernels import backend
from r1pipe_kernels.formats import BLOCK, E4M3
from r1pipe_kernels.quantise import gluon_nvidia, ops, packed_sm90, pipelined_sm90, reference
from r1pipe_kernels.testing import aot, ptx

pytestmark = pytest.mark.slow
aot.without_gpu()
BF16, F32 = torch.bfloat16, torch.float32
SHAPES = [(149, 160, False), (1, 32, False), (272, 256, True)]
"""Rows, columns, whether scales are powers of two."""


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "gluon")
    for module in (gluon_nvidia, packed_sm90, pipelined_sm90):
        monkeypatch.setattr(module, "launch", ptx.launch)
    # Few enough that a CTA has several tiles.
    monkeypatch.setattr(pipelined_sm90, "processors", lambda index: 1)


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


@pytest.mark.parametrize("pipelined", [True, False])
@pytest.mark.parametrize(
    ("rows", "columns", "power_of_two"),
    [(149, 256, False), (1, 128, False), (640, 384, True), (272, 160, True), (1, 32, False)],
)
def test_gated(rows, columns, power_of_two, pipelined, monkeypatch):
    if not pipelined:
        monkeypatch.setattr(pipelined_sm90, "PIPELINES", {})
    # Gates where the exponential overflows, and both infinities.
    gate, up, dh = (scale * torch.randn(rows, columns) for scale in (30, 1, 1e-3))
    gate[0, :5] = torch.tensor([-88.5, -87.9, -200.0, float("inf"), float("-inf")])
    # Halves of one matrix.
    gate, up = torch.cat([gate, up], 1).to(BF16).chunk(2, 1)
    dh = dh.to(BF16)
    near(
        ops.silu_mul_quantise(gate, up, power_of_two),
        reference.silu_mul_quantise(gate, up, power_of_two),
    )
    if columns % BLOCK == 0:
        near(
            ops.silu_mul_backward_quantise(dh, gate, up, power_of_two),
            reference.silu_mul_backward_quantise(dh, gate, up, power_of_two),
        )


@pytest.mark.parametrize("mode", [packed_sm90.SILU, packed_sm90.SILU_BACKWARD])
@pytest.mark.parametrize(("blocks", "across", "band"), [((8, 2), 5, 4), ((6, 3), 2, 2)])
def test_gated_band_by_band(mode, blocks, across, band, monkeypatch):
    """Every tile once, whatever the grid; tiles of one number each."""
    (mb, kb) = blocks
    numbers = 1 + torch.arange(mb * kb, dtype=torch.float32).view(mb, kb)
    x = numbers.repeat_interleave(128, 0).repeat_interleave(128, 1).to(BF16)
    monkeypatch.setattr(pipelined_sm90, "processors", lambda index: across)
    shape = pipelined_sm90.PIPELINES[mode]
    monkeypatch.setitem(pipelined_sm90.PIPELINES, mode, shape._replace(ctas=1))
    assert math.gcd(mb, pipelined_sm90.BAND) == band
    if mode == packed_sm90.SILU:
        near(ops.silu_mul_quantise(x, x), reference.silu_mul_quantise(x, x))
    else:
        y = x.clone()
        near(ops.silu_mul_backward_quantise(y, x, y), reference.silu_mul_backward_quantise(y, x, y))
