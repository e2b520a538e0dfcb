"""FP8 experts: each token meets its expert, whatever the counts."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from r1pipe_kernels.linear import fp8_experts, fp8_grouped_linear, fp8_linear, offsets_of, reference


def relative(got, want):
    return ((got.double() - want).norm() / want.double().norm().clamp(min=1e-30)).item()


def weights(experts, inputs, inner, outputs):
    generator = torch.Generator().manual_seed(1)
    shapes = ((experts, 2 * inner, inputs), (experts, outputs, inner))
    return [nn.Parameter(torch.randn(s, generator=generator) / s[2] ** 0.5) for s in shapes]


def offsets_from(counts):
    return torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32)


def true_experts(x, gate_up, down, offsets):
    parts = []
    for e, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        gate, up = (x[start:end] @ gate_up[e].t()).chunk(2, 1)
        parts.append((nn.functional.silu(gate) * up) @ down[e].t())
    return torch.cat(parts)


@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.sampled_from([0, 0, 1, 5, 33, 130]), min_size=1, max_size=5),
    inputs=st.sampled_from([16, 130]),
    inner=st.sampled_from([16, 72, 128]),
    seed=st.integers(0, 99),
)
def test_experts_are_exact_in_the_rounded_operands(counts, inputs, inner, seed):
    generator = torch.Generator().manual_seed(seed)
    gate_up, down = weights(len(counts), inputs, inner, 48)
    x = torch.randn(sum(counts), inputs, generator=generator, requires_grad=True)
    dy = torch.randn(sum(counts), 48, generator=generator)
    offsets = offsets_from(counts)
    y = fp8_experts(x, gate_up, down, offsets)
    got = (y, *torch.autograd.grad(y, (x, gate_up, down), dy))
    want = reference.experts(x.detach(), gate_up.data, down.data, offsets.tolist(), dy)
    # A last bit of an inner activation may round to another code here and there.
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and relative(a, b) < 2e-3
    for e, count in enumerate(counts):
        assert count or not (got[2][e].any() or got[3][e].any())
    with torch.no_grad():
        assert torch.equal(fp8_experts(x, gate_up, down, offsets), y)


def test_gradients_are_the_true_ones_within_what_fp8_rounds():
    gate_up, down = weights(4, 256, 128, 256)
    offsets = offsets_from([40, 0, 100, 60])
    x, dy = torch.randn(200, 256, requires_grad=True), torch.randn(200, 256)
    found = []
    for run in (fp8_experts, true_experts):
        y = run(x, gate_up, down, offsets)
        found.append((y, *torch.autograd.grad(y, (x, gate_up, down), dy)))
    assert [relative(a, b) < 0.08 for a, b in zip(*found, strict=True)] == [True] * 4


@pytest.mark.parametrize("transposed", [False, True])
def test_a_grouped_layer_is_a_linear_layer_an_expert(transposed):
    counts = [3, 0, 17, 130]
    offsets = offsets_from(counts)
    weight = nn.Parameter(torch.randn(4, 96, 200))
    stored = nn.Parameter(weight.detach().transpose(1, 2).contiguous()) if transposed else weight
    x, dy = torch.randn(150, 200, requires_grad=True), torch.randn(150, 96)
    y = fp8_grouped_linear(x, stored, offsets, transposed=transposed)
    dx, dw = torch.autograd.grad(y, (x, stored), dy)
    dw = dw.transpose(1, 2) if transposed else dw
    for e, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        alone = x.detach()[start:end].requires_grad_()
        matrix = weight.detach()[e].clone().requires_grad_()
        want = fp8_linear(alone, matrix)
        want.backward(dy[start:end])
        assert torch.equal(y[start:end], want) and torch.equal(dx[start:end], alone.grad)
        assert torch.allclose(dw[e], matrix.grad, atol=1e-5)


@pytest.mark.parametrize("trained", [0b001, 0b010, 0b100, 0b011, 0b110])
def test_gradients_that_are_asked_for(trained):
    inputs = [torch.randn(20, 64, requires_grad=True), *weights(2, 64, 32, 64)]
    offsets = offsets_from([12, 8])
    want = torch.autograd.grad(fp8_experts(*inputs, offsets).sum(), inputs)
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(bool(trained >> i & 1))
    fp8_experts(*inputs, offsets).sum().backward()
    for i, tensor in enumerate(inputs):
        assert (tensor.grad is not None) == bool(trained >> i & 1)
        assert tensor.grad is None or torch.equal(tensor.grad, want[i])


def test_offsets_of_sorted_experts():
    experts = torch.tensor([0, 0, 2, 2, 2, 3])
    assert offsets_of(experts, 5).tolist() == [0, 2, 2, 5, 6, 6]
    assert offsets_of(experts[:0], 2).tolist() == [0, 0, 0]
    assert offsets_of(experts, 5).dtype == torch.int32


def test_compiles_in_one_graph():
    inputs = [torch.randn(30, 64, requires_grad=True), *weights(3, 64, 32, 64)]
    offsets = offsets_from([10, 0, 20])
    found = []
    for run in (fp8_experts, torch.compile(fp8_experts, fullgraph=True, backend="aot_eager")):
        y = run(*inputs, offsets)
        found.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_nothing_is_read_back_to_the_host():
    """Counts stay on the device: tensors without values would stop at the first one that is read.

    So a CUDA graph can capture the whole of it; what the operators do inside is shapes alone.
    """
    with FakeTensorMode():
        x = torch.empty(64, 256, requires_grad=True)
        gate_up = torch.empty(4, 256, 256, requires_grad=True)
        down = torch.empty(4, 256, 128, requires_grad=True)
        ids = torch.empty(64, dtype=torch.int64)
        y = fp8_experts(x, gate_up, down, offsets_of(ids, 4))
        y = y + fp8_linear(x, torch.empty(256, 256, requires_grad=True))
        y.sum().backward()
        assert gate_up.grad is not None and gate_up.grad.shape == (4, 256, 256)


def test_what_does_not_fit_is_refused_by_name():
    x, (gate_up, down) = torch.randn(4, 64), weights(2, 64, 32, 64)
    with pytest.raises(ValueError, match=r"fp8_experts: offsets must be int32 \[3\]"):
        fp8_experts(x, gate_up, down, torch.tensor([0, 2, 4]))
    with pytest.raises(ValueError, match=r"expected gate_up \[E, 2F, K\] and down"):
        fp8_experts(x, gate_up[:, :32], down, offsets_from([2, 2]))
    with pytest.raises(ValueError, match=r"the weight takes 64 features"):
        fp8_grouped_linear(x[:, :32], gate_up, offsets_from([2, 2]))
