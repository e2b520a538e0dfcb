"""FP8 linear layers: exact against the rounded operands, near the true gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from r1pipe_kernels.linear import FP8Linear, fp8_gated_mlp, fp8_linear, invalidate, reference
from r1pipe_kernels.quantise import ops as quantisers


def relative(got, want):
    return ((got.double() - want).norm() / want.double().norm().clamp(min=1e-30)).item()


def layer(inputs=256, outputs=144, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    made = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    made.__class__ = FP8Linear
    return made


@pytest.fixture
def quantised(monkeypatch):
    """Counts how often weights and inputs are quantised."""
    counts = {"weight": 0, "input": 0}
    for name, kind in (
        ("quantise_weight", "weight"), ("quantise_both", "input"), ("quantise_rows", "input")
    ):  # fmt: skip
        plain = getattr(quantisers, name)

        def counted(*args, plain=plain, kind=kind):
            counts[kind] += 1
            return plain(*args)

        monkeypatch.setattr(quantisers, name, counted)
    return counts


@settings(max_examples=40, deadline=None)
@given(
    lead=st.sampled_from([(), (1,), (7,), (130,), (3, 5), (2, 1, 65), (0,)]),
    outputs=st.sampled_from([1, 16, 129, 200]),
    inputs=st.sampled_from([1, 16, 128, 300]),
    bias=st.booleans(),
    wants=st.sampled_from([(True, True), (True, False), (False, True)]),
    power_of_two=st.booleans(),
    strided=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products_are_exact_in_the_rounded_operands(
    lead, outputs, inputs, bias, wants, power_of_two, strided, seed
):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    x, w, dy = random(*lead, inputs * 2), random(outputs, inputs), random(*lead, outputs)
    x = x[..., ::2] if strided else x[..., :inputs].contiguous()
    x.requires_grad_(wants[0])
    w.requires_grad_(wants[1])
    b = random(outputs).requires_grad_() if bias else None
    y = fp8_linear(x, w, b, power_of_two=power_of_two)
    assert y.shape == (*lead, outputs)
    y.backward(dy)
    flat = [t.detach().reshape(-1, t.shape[-1]) for t in (x, dy)]
    want, dx, dw = reference.linear(flat[0], w.detach(), flat[1], power_of_two)
    got = y.detach() - b.detach() if b is not None else y.detach()
    assert relative(got.reshape(want.shape), want) < 1e-5
    assert not wants[0] or relative(x.grad.reshape(dx.shape), dx) < 1e-5
    assert not wants[1] or relative(w.grad, dw) < 1e-5
    assert (x.grad is not None, w.grad is not None) == wants
    if b is not None:
        assert torch.allclose(b.grad, flat[1].sum(0), atol=1e-5)


def test_gradients_are_the_true_ones_within_what_fp8_rounds():
    fp8 = layer()
    true = nn.Linear(256, 144)
    true.load_state_dict(fp8.state_dict())
    x, dy = torch.randn(2, 70, 256), torch.randn(2, 70, 144)
    found = []
    for module in (fp8, true):
        mine = x.clone().requires_grad_()
        y = module(mine)
        y.backward(dy)
        found.append((y, mine.grad, module.weight.grad, module.bias.grad))
    # 0.026 of each operand, so 0.037 of a product: r1pipe_kernels.quantise.
    assert [relative(a, b) < 0.04 for a, b in zip(*found, strict=True)] == [True] * 4
    assert relative(found[0][3], found[1][3]) < 1e-6


def test_what_is_kept_for_the_backward_pass_are_codes():
    fp8, kept = layer(), []
    pack = lambda t: kept.append(t) or t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        fp8(torch.randn(512, 256, requires_grad=True))
    inputs = [t for t in kept if t.shape[-1] == 512]
    assert [t.element_size() for t in inputs] == [1]
    assert all(t.dtype != torch.bfloat16 for t in kept)


def test_main_gradients_are_added_to_and_the_ordinary_one_stays_away():
    fp8 = layer(bias=False)
    x = torch.randn(9, 256)
    fp8(x).sum().backward()
    want, fp8.weight.grad = fp8.weight.grad, None
    fp8.weight.main_grad = torch.ones(144, 256)
    for _ in range(2):
        fp8(x).sum().backward()
    assert fp8.weight.grad is None
    assert torch.allclose(fp8.weight.main_grad, 1 + 2 * want, atol=1e-5)
    with pytest.raises(ValueError, match=r"main_grad must be fp32 \(144, 256\)"):
        fp8_linear(x, fp8.weight, main_grad=torch.ones(144, 256).bfloat16())


def test_autocast_chooses_the_output_and_masters_get_gradients_of_their_own_type():
    fp8 = layer()
    x = torch.randn(6, 256, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = fp8(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert fp8.weight.grad.dtype == x.grad.dtype == torch.float32
    half = layer(dtype=torch.float16)
    y = half(x.half())
    y.float().sum().backward()
    assert y.dtype == half.weight.grad.dtype == torch.float16


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(reentrant, quantised):
    fp8 = nn.Sequential(layer(256, 256), nn.GELU(), layer(256, 128))
    x = torch.randn(20, 256, requires_grad=True)
    fp8(x).square().sum().backward()
    want = [x.grad, *(p.grad for p in fp8.parameters())]
    x.grad = None
    fp8.zero_grad()
    before = quantised["weight"]
    checkpoint(fp8, x, use_reentrant=reentrant).square().sum().backward()
    for a, b in zip([x.grad, *(p.grad for p in fp8.parameters())], want, strict=True):
        assert torch.equal(a, b)
    assert quantised["weight"] == before


def test_a_weight_is_quantised_once_a_step(quantised):
    fp8 = layer()
    optimizer = torch.optim.AdamW(fp8.parameters(), lr=1e-2)
    for _ in range(3):
        for _ in range(4):
            fp8(torch.randn(5, 256)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert quantised["weight"] == 3


def replace_data(weight):
    weight.data = weight.data * 2


def write_data(weight):
    weight.data.mul_(2)
    invalidate()


def step_and_write_data(weight):
    weight.grad = torch.zeros_like(weight)
    torch.optim.SGD([weight], lr=0.1).step()
    weight.data.mul_(2)  # an average or a copy of masters that follows the step


def in_place(weight):
    with torch.no_grad():
        weight.mul_(2)


def loaded(weight):
    holder = nn.Linear(256, 144, bias=False)
    holder.weight = weight
    holder.load_state_dict({"weight": weight.detach() * 2})


@pytest.mark.parametrize(
    "change", [replace_data, write_data, step_and_write_data, in_place, loaded]
)
def test_changed_weights_are_quantised_anew(change):
    fp8 = layer(bias=False)
    weight = fp8.weight  # asking the layer for it later would be a sign of its own
    x = torch.randn(4, 256)
    before = fp8(x)
    change(weight)
    assert torch.equal(fp8(x), 2 * before)


def test_copies_have_codes_of_their_own_and_no_more_state():
    fp8 = layer()
    x = torch.randn(4, 256)
    before = fp8(x)
    twin = copy.deepcopy(fp8)
    with torch.no_grad():
        twin.weight.mul_(2)
    assert torch.equal(fp8(x), before) and not torch.equal(twin(x), before)
    assert fp8.state_dict().keys() == nn.Linear(2, 2).state_dict().keys()
    assert vars(fp8).keys() == vars(nn.Linear(2, 2)).keys()


def test_codes_made_in_inference_mode_serve_training():
    fp8 = layer()
    with torch.inference_mode():
        first = fp8(torch.ones(3, 256))
    y = fp8(torch.ones(3, 256))
    y.sum().backward()
    assert torch.equal(first, y) and fp8.weight.grad is not None


def test_an_input_is_quantised_once_for_all_that_read_it(quantised):
    parts = [layer(256, n, bias=False) for n in (64, 32, 32)]
    x = torch.randn(8, 256)
    outputs = [part(x) for part in parts]
    assert quantised["input"] == 1
    x.mul_(2)
    assert torch.equal(parts[0](x), 2 * outputs[0])
    assert quantised["input"] == 2


def test_compiles_in_one_graph_and_follows_the_weights():
    fp8 = layer()
    compiled = torch.compile(fp8, fullgraph=True, backend="aot_eager")
    x = torch.randn(20, 256)
    for _ in range(2):
        found = []
        for module in (fp8, compiled):
            mine = x.clone().requires_grad_()
            fp8.zero_grad()
            y = module(mine)
            y.square().sum().backward()
            found.append([y, mine.grad, fp8.weight.grad.clone(), fp8.bias.grad.clone()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        with torch.no_grad():
            fp8.weight.mul_(1.5)


def test_main_gradients_are_added_to_in_a_compiled_graph():
    fp8 = layer(bias=False)
    weight = fp8.weight
    weight.main_grad = torch.zeros(144, 256)
    x = torch.randn(20, 256)
    fp8(x).sum().backward()
    want = weight.main_grad.clone()
    compiled = torch.compile(fp8, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    assert torch.allclose(weight.main_grad, 2 * want, atol=1e-5) and weight.grad is None


def mlp_weights(inputs=200, inner=256, outputs=96):
    torch.manual_seed(0)
    shapes = ((inner, inputs), (inner, inputs), (outputs, inner))
    return [nn.Parameter(torch.randn(s) / s[1] ** 0.5) for s in shapes]


@pytest.mark.parametrize("rows", [1, 70, 130])
def test_a_gated_mlp_is_exact_in_the_rounded_operands(rows):
    trained = mlp_weights()
    x = torch.randn(rows, 200, requires_grad=True)
    y = fp8_gated_mlp(x, *trained)
    dy = torch.randn_like(y)
    got = (y, *torch.autograd.grad(y, (x, *trained), dy))
    want = reference.gated_mlp(x.detach(), *(w.detach() for w in trained), dy)
    # A last bit of an inner activation may round to another code here and there.
    assert [relative(a, b) < 1e-3 for a, b in zip(got, want, strict=True)] == [True] * 5
    with torch.no_grad():
        assert torch.equal(fp8_gated_mlp(x, *trained), y)


def test_a_gated_mlp_is_near_its_layers_one_by_one():
    trained = mlp_weights()
    x = torch.randn(2, 40, 200, requires_grad=True)
    dy = torch.randn(2, 40, 96)
    gate, up = (x @ w.t() for w in trained[:2])
    y = (nn.functional.silu(gate) * up) @ trained[2].t()
    want = (y, *torch.autograd.grad(y, (x, *trained), dy))
    y = fp8_gated_mlp(x, *trained)
    got = (y, *torch.autograd.grad(y, (x, *trained), dy))
    assert [relative(a, b) < 0.08 for a, b in zip(got, want, strict=True)] == [True] * 5


@pytest.mark.parametrize("trained", [0b0001, 0b0010, 0b1000, 0b0111, 0b1110])
def test_a_gated_mlp_gives_the_gradients_that_are_asked_for(trained):
    inputs = [torch.randn(5, 200, requires_grad=True), *mlp_weights()]
    want = torch.autograd.grad(fp8_gated_mlp(*inputs).sum(), inputs)
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(bool(trained >> i & 1))
    fp8_gated_mlp(*inputs).sum().backward()
    for i, tensor in enumerate(inputs):
        assert (tensor.grad is not None) == bool(trained >> i & 1)
        assert tensor.grad is None or torch.equal(tensor.grad, want[i])


def test_what_does_not_fit_is_refused_by_name():
    x, w = torch.randn(3, 64), torch.randn(8, 32)
    with pytest.raises(ValueError, match=r"the input is \(3, 64\), the weight takes 32"):
        fp8_linear(x, w)
    with pytest.raises(
        ValueError, match=r"expected a bf16, fp16 or fp32 input, got torch\.float64"
    ):
        fp8_linear(x.double(), torch.randn(8, 64))
    with pytest.raises(ValueError, match="300 inner features"):
        fp8_gated_mlp(x, *(torch.randn(s) for s in ((300, 64), (300, 64), (64, 300))))
