"""Run by `test_fused` in a process with TRITON_INTERPRET=1: Liger's kernels on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import liger_kernel.ops.rms_norm as norms
import numpy as np
import pytest
import torch
import triton.language as tl
from peft import LoraConfig, get_peft_model
from triton.runtime import interpreter

from r1pipe.models import fused
from r1pipe.models.loading import hf_defaults
from r1pipe.models.precision import apply_precision
from r1pipe.schema import Load
from r1pipe.stages.packed import attend_to_packed
from r1pipe_kernels.testing.interpreter import convert, correct
from tests.models.stock_models import KINDS, stock_model


def correct_for_liger() -> None:
    """What Liger's kernels need of the interpreter beside `correct`'s conversions.

    As shipped it hands float arguments on as Python's, knows no functions of CUDA's library, and
    computes with the bits of bf16 numbers as if they were integers.
    """
    correct()
    norms.rsqrt = lambda x: tl.math.rsqrt(x)
    implicit, binary = interpreter._implicit_cvt, interpreter.InterpreterBuilder.binary_op

    def scalar(arg: Any) -> Any:
        if not isinstance(arg, float):
            return implicit(arg)
        handle = interpreter.TensorHandle(np.array([arg], dtype=np.float32), tl.float32)
        return tl.tensor(handle, tl.float32)

    def operate(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        if lhs.dtype.scalar != tl.bfloat16:
            return binary(self, lhs, rhs, op)
        wide = [convert(x.data, tl.bfloat16, tl.float32, None).view(np.float32) for x in (lhs, rhs)]
        bits = convert(op(*wide), tl.float32, tl.bfloat16, None)
        return interpreter.TensorHandle(bits, tl.bfloat16)

    interpreter._implicit_cvt = scalar
    interpreter.InterpreterBuilder.binary_op = operate
    # Bound when the class was made, to the method of that time.
    for name in ("fadd", "fmul", "fdiv", "fsub"):
        numpy_name = {"fadd": "add", "fmul": "multiply", "fdiv": "divide", "fsub": "subtract"}[name]
        op = getattr(np, numpy_name)
        setattr(
            interpreter.InterpreterBuilder,
            f"create_{name}",
            lambda self, lhs, rhs, op=op: self.binary_op(lhs, rhs, op),
        )


correct_for_liger()
fused.DEVICES.add("cpu")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
IDS = torch.randint(97, (3, 9), generator=torch.Generator().manual_seed(1))


def pair(kind: str, **changes: Any) -> tuple[Any, Any]:
    plain = stock_model(kind, **changes)
    other = copy.deepcopy(plain)
    fused.fuse(other)
    return plain, other


def trained(model: Any, ids: torch.Tensor, amp: bool = False, **more: Any) -> tuple[Any, ...]:
    """Logits, loss and gradients by name, of one pass."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        out = model(input_ids=ids, labels=ids, **more)
    out.loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert found
    return out.logits.detach(), out.loss.detach(), found


def apart(got: torch.Tensor, want: torch.Tensor) -> float:
    """Norm of the difference over that of `want`."""
    got, want = got.detach().float(), want.detach().float()
    return float((got - want).norm() / want.norm().clamp_min(1e-6))


def assert_same(got: tuple[Any, ...], want: tuple[Any, ...], limit: float = 1e-4) -> None:
    assert apart(got[0], want[0]) < limit and abs(float(got[1] - want[1])) < limit
    assert got[2].keys() == want[2].keys()
    assert max(apart(got[2][name], want[2][name]) for name in got[2]) < limit


@EVERY_KIND
@pytest.mark.parametrize("rows", [1, 3])
def test_logits_loss_and_gradients_in_float32(kind: str, rows: int) -> None:
    plain, other = pair(kind)
    assert_same(trained(other, IDS[:rows]), trained(plain, IDS[:rows]))


@EVERY_KIND
def test_autocast_is_as_near_to_float32_as_without(kind: str) -> None:
    plain, other = pair(kind)
    exact, want, got = trained(plain, IDS), trained(plain, IDS, True), trained(other, IDS, True)
    assert got[0].dtype == want[0].dtype == torch.bfloat16
    assert apart(got[0], exact[0]) < 1.3 * apart(want[0], exact[0])
    for name, gradient in got[2].items():
        assert gradient.dtype == torch.float32
        # Norms of queries and keys round once more: their output is stored in 16 bits.
        times = 2 if name.endswith(("q_norm.weight", "k_norm.weight")) else 1.3
        assert apart(gradient, exact[2][name]) < times * apart(want[2][name], exact[2][name]) + 2e-3


@EVERY_KIND
def test_weights_in_bfloat16(kind: str) -> None:
    plain = stock_model(kind)
    exact = trained(plain, IDS)
    plain = plain.to(torch.bfloat16)
    other = copy.deepcopy(plain)
    fused.fuse(other)
    want, got = trained(plain, IDS), trained(other, IDS)
    assert got[0].dtype == want[0].dtype
    assert apart(got[0], exact[0]) < 1.3 * apart(want[0], exact[0])


def test_what_comes_out_of_the_layers_under_autocast() -> None:
    _, model = pair("qwen3")
    seen: dict[str, tuple[torch.dtype, torch.dtype]] = {}
    for name, module in model.model.layers[0].named_modules():
        if name.endswith("norm") or name == "mlp":

            def note(_: Any, given: Any, out: torch.Tensor, name: str = name) -> None:
                seen[name] = (given[0].dtype, out.dtype)

            module.register_forward_hook(note)
    trained(model, IDS, True)
    wide, half = torch.float32, torch.bfloat16
    assert seen == {
        "input_layernorm": (wide, wide),
        "post_attention_layernorm": (wide, wide),
        "self_attn.q_norm": (half, half),  # transformers' own gives float32, of float32 weights
        "self_attn.k_norm": (half, half),
        "mlp": (wide, half),
    }


@EVERY_KIND
def test_packed_rows_equal_rows_of_their_own(kind: str) -> None:
    plain, other = pair(kind)
    lengths = torch.tensor([9, 4, 7])
    ids = [IDS[row, :length] for row, length in enumerate(lengths)]
    attend_to_packed(other)
    bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    got = other(
        input_ids=torch.cat(ids)[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
        **{"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds},
        **{"max_length_q": longest, "max_length_k": longest},
    ).logits[0]
    want = torch.cat([plain(input_ids=row[None]).logits[0] for row in ids])
    assert apart(got, want) < 1e-5


def test_gradient_checkpointing() -> None:
    plain, other = pair("qwen3")
    for reentrant in (False, True):
        other.gradient_checkpointing_enable({"use_reentrant": reentrant})
        other.enable_input_require_grads()
        other.train()
        assert_same(trained(other, IDS), trained(plain, IDS))


def test_adapters() -> None:
    both = []
    for model in pair("qwen2"):
        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        both.append(trained(get_peft_model(model, config), IDS))
    assert_same(both[1], both[0])
    assert all("lora" in name for name in both[0][2])


@pytest.mark.parametrize(("inner", "mlps"), [(128, 0), (96, 2)])
def test_layers_in_fp8_keep_their_own_mlp(inner: int, mlps: int) -> None:
    """One function does all of an MLP whose blocks are whole; others have FP8 layers in Liger's."""
    options = {**hf_defaults()["fp8"], "min_features": 16}
    load = Load.model_validate({**hf_defaults(), "precision": "fp8_block", "fp8": options})
    plain = apply_precision(stock_model("qwen2", intermediate_size=inner), load)
    other = copy.deepcopy(plain)
    assert fused.fuse(other) == (5, mlps, 2)
    assert_same(trained(other, IDS), trained(plain, IDS), 0.02)  # codes of near values may differ


def test_scores_without_gradients_and_one_token_after_another() -> None:
    plain, other = pair("qwen3")
    with torch.no_grad():
        want = plain.eval()(IDS).logits
        assert apart(other.eval()(IDS).logits, want) < 1e-5
        begun = other(IDS[:, :8], use_cache=True)
        last = other(IDS[:, 8:], past_key_values=begun.past_key_values).logits
    assert apart(last[:, -1], want[:, -1]) < 1e-5


def test_activations_other_than_silu_keep_their_mlp() -> None:
    plain, other = pair("llama", hidden_act="gelu", attention_bias=True, mlp_bias=True)
    assert "forward" not in vars(other.model.layers[0].mlp)
    assert_same(trained(other, IDS), trained(plain, IDS))


def test_scaled_angles() -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    yarn["original_max_position_embeddings"] = 32
    plain, other = pair("qwen3", rope_parameters=yarn)
    assert_same(trained(other, IDS), trained(plain, IDS))
