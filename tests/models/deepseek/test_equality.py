"""The model computes what stock transformers computes with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

VARIANTS = pytest.mark.parametrize("rope", ["default", "yarn"])
relaxed = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 2, 4]))
    per_group = draw(st.sampled_from([2, 3, 4]))
    topk_group = draw(st.integers(1, groups))
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "n_group": groups,
        "topk_group": topk_group,
        "n_routed_experts": groups * per_group,
        "num_experts_per_tok": draw(st.integers(1, topk_group * per_group)),
        "n_shared_experts": draw(st.integers(1, 2)),
        "first_k_dense_replace": draw(st.integers(0, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "q_lora_rank": draw(st.sampled_from([None, 12])),
        "kv_lora_rank": draw(st.sampled_from([8, 24])),
        "v_head_dim": draw(st.sampled_from([4, 12])),
        "norm_topk_prob": draw(st.booleans()),
        "rope_interleave": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
    }


def gradients(model: Any, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


def assert_same_training(
    stock: Any, ours: Any, inputs: dict[str, Any], told_ours: dict[str, Any] | None = None
) -> None:
    loss, expected = gradients(stock.train(), **inputs)
    mine, grads = gradients(ours.train(), **(told_ours or inputs))
    assert torch.equal(mine, loss)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        assert torch.equal(grad, expected[name]), name


@relaxed
@given(shape=shapes(), with_yarn=st.booleans())
def test_logits_loss_and_gradients_are_bit_equal(
    shape: dict[str, Any], with_yarn: bool, stock: Any, ours: Any, yarn: Any
) -> None:
    theirs = stock(**shape, **({"rope_parameters": yarn} if with_yarn else {}))
    mine = ours(theirs)
    ids = torch.randint(1, 61, (2, 7))
    with torch.no_grad():
        assert torch.equal(mine(ids).logits, theirs(ids).logits)
    assert_same_training(theirs, mine, {"input_ids": ids, "labels": ids})


@relaxed
@given(shape=shapes(), with_yarn=st.booleans(), new=st.integers(1, 3))
def test_decoding_in_steps_agrees_with_stock_and_with_one_pass(
    shape: dict[str, Any], with_yarn: bool, new: int, stock: Any, ours: Any, yarn: Any
) -> None:
    theirs = stock(**shape, **({"rope_parameters": yarn} if with_yarn else {}))
    mine = ours(theirs)
    ids = torch.randint(1, 61, (2, 6 + 3 * new))
    whole = theirs(ids).logits
    for model in (theirs, mine):
        cache, pieces = None, []
        for piece in (ids[:, :6], *ids[:, 6:].split(new, dim=1)):
            out = model(piece, past_key_values=cache, use_cache=True)
            cache, pieces = out.past_key_values, [*pieces, out.logits]
        steps = torch.cat(pieces, dim=1)
        assert (steps - whole).abs().max() <= 1e-5 * whole.abs().max()


@VARIANTS
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_batches(
    rope: str, side: str, attention: str, stock: Any, ours: Any, yarn: Any
) -> None:
    theirs = stock(**({"rope_parameters": yarn} if rope == "yarn" else {}))
    mine = ours(theirs)
    for model in (theirs, mine):
        model.set_attn_implementation(attention)
    ids = torch.randint(1, 61, (3, 9))
    mask = torch.ones_like(ids)
    for row, padding in enumerate((0, 2, 5)):
        mask[row, (slice(0, padding) if side == "left" else slice(9 - padding, 9))] = 0
    ids = ids * mask
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    labels = ids.masked_fill(mask == 0, -100)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    real = mask.bool()
    assert torch.equal(mine(**inputs).logits[real], theirs(**inputs).logits[real])
    assert_same_training(theirs, mine, {**inputs, "labels": labels})
    # A row alone says the same as the row with its padding.
    for row in range(3):
        alone = mine(ids[row][real[row]][None]).logits[0]
        batched = mine(**inputs).logits[row][real[row]]
        assert torch.allclose(alone, batched, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_expert_implementations_agree(implementation: str, stock: Any, ours: Any) -> None:
    mine = ours(stock())
    ids = torch.randint(1, 61, (2, 9))
    expected = mine(ids).logits
    mine.set_experts_implementation(implementation)
    assert torch.allclose(mine(ids).logits, expected, atol=2e-6)


def test_generation_is_token_for_token_stock(stock: Any, ours: Any) -> None:
    theirs = stock()
    mine = ours(theirs)
    ids = torch.randint(1, 61, (4, 8))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    mask[3, :6] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    expected = theirs.generate(ids * mask, **options)
    assert torch.equal(mine.generate(ids * mask, **options), expected)
    static = mine.generate(ids * mask, **options, cache_implementation="static")
    assert torch.equal(static, expected)
    assert mine.generate(ids, max_new_tokens=3, num_beams=2, do_sample=False).shape == (4, 11)


@pytest.mark.parametrize("reentrant", [False])
def test_gradient_checkpointing_changes_no_gradient(reentrant: bool, fresh: Any) -> None:
    model = fresh(num_nextn_predict_layers=1, balance_factor=0.1).train()
    ids = torch.randint(1, 61, (2, 9))
    loss, expected = gradients(model, input_ids=ids, labels=ids)
    loads = [router.load_E.clone() for router in model.model.routers]
    for router in model.model.routers:
        router.load_E = None
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again, grads = gradients(model, input_ids=ids, labels=ids)
    assert torch.equal(loss, again)
    for name, grad in grads.items():
        assert torch.allclose(grad, expected[name], atol=1e-6), name
    for router, load in zip(model.model.routers, loads, strict=True):
        assert torch.equal(router.load_E, load)
