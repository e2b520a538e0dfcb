"""Fused decoder layers: they compute what transformers' do, or leave it to them."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from r1pipe.models import dense_layer
from r1pipe.models.dense_layer import fuse_layers, is_fused
from r1pipe.models.loading import hf_defaults
from r1pipe.models.precision import apply_precision
from r1pipe.schema import Load
from r1pipe.stages.packed import attend_to_packed
from r1pipe_kernels.layers import ops
from tests.interpreting import check_interpreted
from tests.models.stock_models import KINDS, stock_model

IDS = torch.randint(97, (3, 11), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[0, :4], MASK[1, 9:] = 0, 0
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
CAST = pytest.mark.parametrize(
    "dtype, amp", [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
)


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Lets layers on the CPU take the two steps, and lists those that did."""
    monkeypatch.setattr(dense_layer, "DEVICES", {"cpu"})
    made: list[Any] = []
    plain = dense_layer.layer_forward

    def noted(layer: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(layer)
        return plain(layer, *args, **kwargs)

    monkeypatch.setattr(dense_layer, "layer_forward", noted)
    return made


def pair(kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Any, Any]:
    plain = stock_model(kind, **changes).to(dtype)
    other = copy.deepcopy(plain)
    assert fuse_layers(other) == 2
    return plain, other


def trained(model: Any, amp: bool = False, mask: Any = MASK) -> dict[str, torch.Tensor]:
    """Logits and gradients of one pass, in float32."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        out = model(input_ids=IDS, attention_mask=mask, labels=IDS, use_cache=False)
    out.loss.backward()
    found = {"logits": out.logits.detach()[MASK.bool()]}
    found |= {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: value.float().clone() for name, value in found.items()}


def apart(got: torch.Tensor, want: torch.Tensor) -> float:
    """Norm of the difference over that of `want`."""
    got, want = got.detach(), want.detach()
    return float((got - want).norm() / want.norm().clamp_min(1e-6))


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    assert max(apart(got[name], want[name]) for name in want) < 1e-4


@EVERY_KIND
def test_logits_and_gradients_in_float32(kind: str, calls: list[Any]) -> None:
    plain, other = pair(kind)
    want = trained(plain)
    assert calls == []
    assert_same(trained(other), want)
    assert calls == list(other.model.layers)


@EVERY_KIND
@CAST
def test_it_is_as_near_to_float32_as_transformers(kind: str, dtype: Any, amp: bool) -> None:
    exact = trained(stock_model(kind))
    plain, other = pair(kind, dtype)
    want, got = trained(plain, amp), trained(other, amp)
    for name in exact:
        near, far = apart(got[name], exact[name]), apart(want[name], exact[name])
        assert near < 1.4 * far + 3e-3, name
    # Softmax does not see a bias of all keys: rounding is all that its gradient holds.
    names = [name for name in exact if not name.endswith("k_proj.bias")]
    mean = [sum(apart(each[n], exact[n]) for n in names) / len(names) for each in (got, want)]
    assert mean[0] <= 1.1 * mean[1] + 1e-6


def test_gradients_of_masters_keep_more_than_16_bits() -> None:
    _, other = pair("llama")
    found = trained(other, amp=True)["model.layers.0.mlp.down_proj.weight"]
    assert found.dtype == torch.float32


@EVERY_KIND
def test_gradients_add_up_over_passes_and_checkpoints(kind: str) -> None:
    plain, other = pair(kind)
    want = trained(plain)
    for options in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        if options is not None:
            other.gradient_checkpointing_enable(options)
            other.enable_input_require_grads()
        assert_same(trained(other.train()), want)
    other.zero_grad()
    for _ in range(2):
        other(input_ids=IDS, attention_mask=MASK, labels=IDS, use_cache=False).loss.backward()
    grads = {n: p.grad for n, p in other.named_parameters()}
    assert all(apart(grads[name], 2 * want[name]) < 1e-4 for name in grads)


def test_frozen_weights_get_no_gradient() -> None:
    plain, other = pair("qwen2")
    for model in (plain, other):
        model.requires_grad_(False)
        for name in ("q_proj", "k_proj"):
            getattr(model.model.layers[0].self_attn, name).requires_grad_(True)
        model.model.layers[1].mlp.up_proj.requires_grad_(True)
        model.model.layers[1].input_layernorm.requires_grad_(True)
    want = trained(plain)
    assert len(want) == 7
    assert_same(trained(other), want)


@EVERY_KIND
def test_packed_rows(kind: str, calls: list[Any]) -> None:
    plain, other = pair(kind)
    ends = torch.tensor([0, 4, 11, 20], dtype=torch.int32)
    places = torch.cat([torch.arange(n) for n in (4, 7, 9)])[None]
    ids = torch.randint(97, (1, 20))
    found = []
    for model in (plain, other):
        attend_to_packed(model)
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        lengths = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
        lengths |= {"max_length_q": 9, "max_length_k": 9}
        out = model(ids, attention_mask=mask, position_ids=places, use_cache=False, **lengths)
        out.logits.square().mean().backward()
        found.append([out.logits, *(p.grad for p in model.parameters())])
    assert len(calls) == 2
    assert all(apart(got, want) < 1e-4 for want, got in zip(*found, strict=True))


def test_what_decodes_runs_transformers_layers(calls: list[Any]) -> None:
    plain, other = pair("qwen3")
    want = plain.generate(IDS, max_new_tokens=5, do_sample=False)
    assert torch.equal(other.generate(IDS, max_new_tokens=5, do_sample=False), want)
    assert calls == []


def test_hooks_on_bypassed_modules_are_called(calls: list[Any]) -> None:
    _, other = pair("llama")
    seen: list[str] = []
    handle = other.model.layers[1].mlp.register_forward_hook(lambda *_: seen.append("mlp"))
    other(IDS, use_cache=False)
    assert seen == ["mlp"] and calls == [other.model.layers[0]]
    handle.remove()
    found = other(IDS, use_cache=False)
    other.model.layers[0].self_attn.v_proj.forward = lambda x: torch.zeros(*x.shape[:-1], 32)
    calls.clear()
    assert not torch.equal(other(IDS, use_cache=False).logits, found.logits)
    assert calls == [other.model.layers[1]]
    # transformers records what attention returns by hooks, which stay.
    other.set_attn_implementation("eager")
    found = other(IDS, use_cache=False, output_attentions=True, output_hidden_states=True)
    assert len(found.hidden_states) == 3 and len(found.attentions) == 2


def test_adapters_quantised_and_other_layers_stay(calls: list[Any]) -> None:
    assert fuse_layers(stock_model("qwen2", hidden_act="gelu")) == 0
    assert fuse_layers(stock_model("llama", mlp_bias=True)) == 0
    assert fuse_layers(stock_model("llama", attention_bias=True)) == 0  # the output's too
    model: Any = stock_model("qwen3")
    lora = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["q_proj"]))
    assert fuse_layers(lora) == 0
    fuse_layers(model)  # before the adapters come
    later = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    want = later(IDS, use_cache=False).logits
    assert calls == []
    with later.disable_adapter():
        assert not torch.equal(later(IDS, use_cache=False).logits, want)
    eight = {"precision": "fp8_block", "fp8": {**hf_defaults()["fp8"], "min_features": 32}}
    fp8 = apply_precision(stock_model("llama"), Load.model_validate({**hf_defaults(), **eight}))
    assert fuse_layers(fp8) == 0
    layer: Any = stock_model("llama").model.layers[0]
    layer.forward = lambda x: x
    assert not dense_layer.fits(layer)
    assert not dense_layer.fits(nn.Linear(2, 2))


def test_a_class_made_elsewhere_stays() -> None:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    class LlamaDecoderLayerOfMine(LlamaDecoderLayer):
        """May compute anything."""

    model: Any = stock_model("llama")
    model.model.layers[0].__class__ = LlamaDecoderLayerOfMine
    assert fuse_layers(model) == 1 and not is_fused(model.model.layers[0])


def test_mixed_dtypes_without_autocast_are_transformers(calls: list[Any]) -> None:
    _, other = pair("llama")
    other.model.layers[0].input_layernorm.double()
    with pytest.raises(RuntimeError):
        other(IDS, use_cache=False)  # as without fusing
    assert calls == []


def test_no_gradient_is_kept_where_none_is_wanted(calls: list[Any]) -> None:
    plain, other = pair("qwen3")
    with torch.no_grad():
        want, got = (model(IDS, use_cache=False).logits for model in (plain, other))
    assert len(calls) == 2 and not got.requires_grad
    assert apart(got, want) < 1e-5


def test_a_copy_has_layers_of_its_own(calls: list[Any]) -> None:
    _, other = pair("llama")
    copied = copy.deepcopy(other)
    copied.model.layers[0].mlp.up_proj.weight.data.zero_()
    assert not torch.equal(copied(IDS, use_cache=False).logits, other(IDS, use_cache=False).logits)
    assert calls == [*copied.model.layers, *other.model.layers]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 6), width=st.integers(1, 40), seed=st.integers(0, 999),
    size=st.floats(1e-3, 1e3),
)  # fmt: skip
def test_the_steps_backward_passes_are_autograd_s(
    rows: int, width: int, seed: int, size: float
) -> None:
    drawn = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (size * torch.randn(*shape, generator=drawn)).requires_grad_()

    x, weight, grad, past = draw(rows, width), draw(width), draw(rows, width), draw(rows, width)
    y = nn.functional.rms_norm(x, (width,), weight, 1e-6)
    torch.autograd.backward([y, x], [grad, past])
    got, scale = ops.norm_forward(x.detach(), weight.detach(), 1e-6, torch.float32)
    close = {"rtol": 1e-4, "atol": 1e-4 * size * max(size, 1)}
    torch.testing.assert_close(got, y.detach(), **close)
    found = ops.norm_backward(*(t.detach() for t in (grad, x, scale, weight, past)))
    assert x.grad is not None and weight.grad is not None
    want = (x.grad, x.grad, y.detach(), weight.grad)
    for g, w in zip(found, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-3 * size * max(size, 1))

    both, of_out = draw(rows, 2 * width), draw(rows, width).detach()
    a, b = both.chunk(2, dim=1)
    out = nn.functional.silu(a) * b
    out.backward(of_out)
    assert both.grad is not None
    torch.testing.assert_close(ops.gate_forward(both.detach()), out.detach(), **close)
    of_both, again = ops.gate_backward(of_out, both.detach())
    torch.testing.assert_close(again, out.detach(), **close)
    torch.testing.assert_close(of_both, both.grad, rtol=1e-3, atol=1e-3 * size * max(size, 1))


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")
def test_kernels_interpreted_equal_plain_torch() -> None:
    check_interpreted(Path(__file__).with_name("interpreted_layers.py"))
