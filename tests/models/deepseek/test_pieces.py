"""What a GPU computes in fewer kernels is what the plain layers compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.loss.loss_utils import ForCausalLMLoss

from r1pipe.models import precision
from r1pipe.models.deepseek import attention, experts
from r1pipe.models.deepseek.layers import grouped_experts
from r1pipe.models.deepseek.pieces import causal_lm_loss

relaxed = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@relaxed
@given(
    tokens=st.integers(1, 40),
    top_k=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_grouped_experts_and_gradients(
    tokens: int, top_k: int, dtype: torch.dtype, seed: int, fresh: Any
) -> None:
    torch.manual_seed(seed)
    moe: Any = fresh(num_experts_per_tok=4).model.layers[1].mlp.experts.to(dtype)
    chosen = torch.stack([torch.randperm(8)[:top_k] for _ in range(tokens)])
    answers = []
    for function in (moe, grouped_experts):
        torch.manual_seed(seed)
        hidden = torch.randn(tokens, 32).to(dtype).requires_grad_()
        gates = torch.rand(tokens, top_k).requires_grad_()
        weights = (moe.gate_up_proj, moe.down_proj)
        more = () if function is moe else (*weights, moe.act_fn)
        out = function(hidden, chosen, gates, *more)
        inputs = (hidden, gates, *weights)
        grads = torch.autograd.grad((out.float() * torch.linspace(-1, 1, 32)).sum(), inputs)
        answers.append((out, *grads))
    for plain, grouped in zip(*answers, strict=True):
        assert plain.dtype == grouped.dtype
        rounding = 1e-6 if dtype == torch.float32 else 2e-2
        assert (plain - grouped).abs().max() <= rounding * plain.abs().max().clamp(min=1e-3)


@relaxed
@given(
    rows=st.integers(1, 3),
    tokens=st.integers(2, 9),
    ignored=st.integers(0, 5),
    items=st.sampled_from([None, 7, torch.tensor(5)]),
    shifted=st.booleans(),
)
def test_loss_is_transformers(
    rows: int, tokens: int, ignored: int, items: Any, shifted: bool
) -> None:
    torch.manual_seed(rows * 10 + tokens)
    labels = torch.randint(0, 17, (rows, tokens))
    labels.view(-1)[torch.randperm(rows * tokens)[:ignored]] = -100
    labels[0, -1] = 3
    options = {"shift_labels": labels} if shifted else {}
    answers = []
    for function in (ForCausalLMLoss, causal_lm_loss):
        torch.manual_seed(0)
        logits = torch.randn(rows, tokens, 17).bfloat16().requires_grad_()
        loss = function(logits, labels, 17, num_items_in_batch=items, **options)
        answers.append((loss, *torch.autograd.grad(loss, logits)))
    assert torch.allclose(answers[0][0], answers[1][0], rtol=1e-6)
    assert torch.equal(answers[0][1], answers[1][1]) or torch.allclose(
        answers[0][1], answers[1][1], atol=1e-4
    )


def test_values_filled_up_with_zeros_change_nothing(
    fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(v_head_dim=12, q_lora_rank=None).train()
    ids = torch.randint(1, 61, (2, 9))
    answers = []
    for padded in (0, 16):
        monkeypatch.setattr(attention.LatentAttention, "_padded_values", lambda *a, p=padded: p)
        model.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        answers.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for plain, wide in zip(*answers, strict=True):
        assert torch.allclose(plain, wide, rtol=1e-4, atol=2e-6)


def test_networks_are_known_to_what_swaps_layers(fresh: Any) -> None:
    model = fresh()
    first, second = model.model.layers[0].mlp, model.model.layers[1].mlp
    assert precision.is_gated_mlp(first) and precision.is_gated_mlp(second.shared_experts)
    assert precision.is_experts(second.experts) and not precision._unlike(second.experts)


def test_whole_model_on_the_gpus_path(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers as a GPU takes them, on this machine: same logits, loss and gradients."""
    model = fresh(num_nextn_predict_layers=1, balance_factor=0.1).train()
    ids = torch.randint(1, 61, (2, 9))
    answers = []
    for grouped in (False, True):
        if grouped:
            monkeypatch.setattr(
                experts.Experts,
                "forward",
                lambda self, h, e, g: grouped_experts(
                    h, e, g, self.gate_up_proj, self.down_proj, self.act_fn
                ),
            )
            monkeypatch.setattr(type(model), "loss_function", property(lambda _: causal_lm_loss))
            monkeypatch.setattr(attention.LatentAttention, "_padded_values", lambda *a: 16)
        model.zero_grad()
        output = model(ids, labels=ids)
        output.loss.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        answers.append([output.loss.detach(), output.logits.detach(), *grads])
    for plain, fast in zip(*answers, strict=True):
        assert torch.allclose(plain, fast, rtol=1e-4, atol=2e-6)
