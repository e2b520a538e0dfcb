"""Routes are recorded as they were used, and replayed exactly, with live gates and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from r1pipe.models.deepseek import DeepseekConfig
from r1pipe.models.deepseek.replay import (
    ROUTES_DTYPE,
    UNKNOWN,
    aligned_routes,
    record_routes,
    replay_routes,
    routed_layers,
    routes_of_engine,
)


def batch(rows: int = 3, columns: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens with padding on the left of the first row and the right of the last."""
    ids, mask = torch.randint(1, 61, (rows, columns)), torch.ones(rows, columns, dtype=torch.long)
    mask[0, :4] = 0
    mask[-1, 7:] = 0
    return ids, mask


def recorded_routes(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
    with torch.no_grad(), record_routes(model) as recorder:
        model(input_ids=ids, attention_mask=mask)
    return recorder.take()


def other_routes(model: Any, shape: tuple[int, int]) -> torch.Tensor:
    """Routes nobody would choose: distinct experts drawn at random."""
    config = model.config
    scores = torch.rand(*shape, routed_layers(model), config.n_routed_experts)
    return scores.topk(config.num_experts_per_tok).indices.to(ROUTES_DTYPE)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def naive_moe(moe: Any, hidden_TD: torch.Tensor, routes_TK: torch.Tensor) -> torch.Tensor:
    """One token and one expert after the other, gates by equation 13 over the given experts."""
    rows = []
    for hidden_D, experts in zip(hidden_TD, routes_TK.tolist(), strict=True):
        scores = torch.sigmoid(moe.gate.weight @ hidden_D)
        total = sum(scores[e] for e in experts)
        row = moe.shared_experts(hidden_D)
        for e in experts:
            gate, up = (moe.experts.gate_up_proj[e] @ hidden_D).chunk(2)
            inner = torch.nn.functional.silu(gate) * up
            gated = scores[e] / total * moe.gate.routed_scaling_factor
            row = row + gated * (moe.experts.down_proj[e] @ inner)
        rows.append(row)
    return torch.stack(rows)


def test_recording_is_aligned_with_the_tokens(fresh: Any) -> None:
    model = fresh(num_nextn_predict_layers=1).eval()
    ids, mask = batch()
    routes = recorded_routes(model, ids, mask)
    assert routes.shape == (3, 9, 2, 3) and routes.dtype == ROUTES_DTYPE
    assert torch.equal((routes == UNKNOWN).all(-1).all(-1), mask == 0)
    alone = recorded_routes(model, ids[:1, 4:])
    assert torch.equal(routes[:1, 4:].sort(-1).values, alone.sort(-1).values)


def test_replay_of_the_same_routes_changes_no_bit(fresh: Any) -> None:
    model = fresh().eval()
    ids, mask = batch()
    expected = model(ids, attention_mask=mask).logits
    routes = recorded_routes(model, ids, mask)
    with replay_routes(model, routes) as flips:
        assert torch.equal(model(ids, attention_mask=mask).logits, expected)
    assert flips.share == 0 and flips.replayed == int(mask.sum()) * routed_layers(model)
    with replay_routes(model, torch.full_like(routes, UNKNOWN)) as flips:
        assert torch.equal(model(ids, attention_mask=mask).logits, expected)
    assert flips.replayed == 0
    assert torch.equal(model(ids, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("normalised", [True, False])
def test_replayed_layer_is_the_naive_sum(normalised: bool, fresh: Any) -> None:
    model = fresh(norm_topk_prob=True).eval()
    moe = model.model.layers[1].mlp
    hidden = torch.randn(6, 32)
    routes = other_routes(model, (1, 6))[0, :, 0]
    if not normalised:
        moe.gate.norm_topk_prob = False
    with moe.gate.replaying(routes):
        got = moe(hidden)
    expected = naive_moe(moe, hidden, routes)
    if not normalised:
        scores = torch.sigmoid(hidden @ moe.gate.weight.T).gather(1, routes.long()).sum(1)
        shared = moe.shared_experts(hidden)
        expected = shared + (expected - shared) * scores[:, None]
    assert torch.allclose(got, expected, atol=1e-5)


def test_gates_are_live_and_learn(fresh: Any) -> None:
    """The gradient of a router's weight is the slope of the loss at fixed routes."""
    model = fresh(balance_factor=0.0, bias_update_speed=0.0).train()
    ids, _ = batch()
    routes = other_routes(model, (3, 9))

    def loss() -> torch.Tensor:
        with replay_routes(model, routes):
            return model(ids, labels=ids).loss

    weight = model.model.routers[0].weight
    loss().backward()
    direction, slope = weight.grad / weight.grad.norm(), float(weight.grad.norm())
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight.add_(sign * 1e-2 * direction)
            values.append(float(loss()))
            weight.sub_(sign * 1e-2 * direction)
    assert slope > 0
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_replays_again(reentrant: bool, fresh: Any) -> None:
    """The backward pass runs the layers anew, after the block."""
    beside = {} if reentrant else {"num_nextn_predict_layers": 1, "balance_factor": 0.1}
    model = fresh(**{"balance_factor": 0.0, **beside}).train()
    ids, mask = batch()
    routes = other_routes(model, (3, 9))
    found = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with replay_routes(model, routes) as flips:
            loss = model(ids, attention_mask=mask, labels=ids).loss
        seen = (flips.flipped, flips.replayed)
        loss.backward()
        assert (flips.flipped, flips.replayed) == seen
        found.append((seen, gradients(model)))
    assert found[0][0] == found[1][0]
    assert found[0][1].keys() == found[1][1].keys()
    for name, value in found[0][1].items():
        assert torch.allclose(found[1][1][name], value, atol=1e-6), name


def test_mtp_modules_choose_themselves(fresh: Any) -> None:
    model = fresh(num_nextn_predict_layers=1).train()
    ids, _ = batch()
    with replay_routes(model, other_routes(model, (3, 9))), record_routes(model) as recorder:
        model(ids, labels=ids)
    assert recorder.take().shape[2] == 2
    load = [router.load_E.clone() for router in model.model.routers]
    assert len(load) == 3 and float(load[2].sum()) == 3 * 8 * 3


def test_the_load_is_of_the_experts_used(fresh: Any) -> None:
    model = fresh().train()
    ids, mask = batch()
    routes = torch.arange(3).expand(3, 9, 2, 3).to(ROUTES_DTYPE)
    with replay_routes(model, routes):
        model(ids, attention_mask=mask, labels=ids)
    tokens = int(mask.sum())
    for router in model.model.routers:
        assert router.load_E.tolist() == [tokens] * 3 + [0] * 5


def test_packed_rows_are_recorded_and_replayed(fresh: Any) -> None:
    model = fresh().eval()
    ids, _ = batch(1, 9)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]])
    with record_routes(model) as recorder:
        expected = model(ids, position_ids=positions).logits
    routes = recorder.take()
    parts = [recorded_routes(model, ids[:, a:b]) for a, b in ((0, 4), (4, 7), (7, 9))]
    assert torch.equal(routes.sort(-1).values, torch.cat(parts, dim=1).sort(-1).values)
    with replay_routes(model, routes) as flips:
        assert torch.equal(model(ids, position_ids=positions).logits, expected)
    assert flips.share == 0


@pytest.mark.parametrize("adapters", [False, True])
def test_through_adapters_and_the_fused_head(adapters: bool, fresh: Any) -> None:
    model = fresh().eval()
    add_fused_lm_head(model)
    wrapped: Any = model
    if adapters:
        wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"]))
    ids, mask = batch()
    call = {"input_ids": ids, "attention_mask": mask, "labels": ids, "fused_lm_head": True}
    with record_routes(wrapped) as recorder:
        expected = wrapped(**call).log_probs
    with replay_routes(wrapped, recorder.take()) as flips:
        assert torch.equal(wrapped(**call).log_probs, expected)
    assert flips.replayed > 0
    with replay_routes(wrapped, other_routes(model, (3, 9))) as flips:
        assert not torch.equal(wrapped(**call).log_probs, expected)
    assert flips.share > 0.5


def test_generation_is_recorded_token_by_token(fresh: Any) -> None:
    """Prompts of different lengths through `generate`: the routes of the same text read at once."""
    model = fresh().eval()
    prompts = [[5, 6, 7, 8], [9, 10], [11]]
    width = 4
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    with record_routes(model) as recorder, torch.no_grad():
        written = model.generate(
            input_ids=ids, attention_mask=(ids > 0).long(), max_new_tokens=5, do_sample=False
        )
    for row, routes in enumerate(recorder.sequences()):
        text = written[row, width - len(prompts[row]) :][None]
        assert routes.shape[0] == text.shape[1] - 1  # nothing was done with the last token
        expected = recorded_routes(model, text[:, :-1])[0]
        assert torch.equal(routes.sort(-1).values, expected.sort(-1).values)


def test_rows_that_come_and_go_are_refused(fresh: Any) -> None:
    model = fresh().eval()
    with record_routes(model) as recorder, torch.no_grad():
        model(input_ids=torch.tensor([[5, 6], [7, 8]]))
        model(input_ids=torch.tensor([[9]]))
        with pytest.raises(ValueError, match="came or went"):
            recorder.sequences()
        with pytest.raises(ValueError, match="no forward pass"):
            recorder.take()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=5),
    missing=st.integers(0, 3),
)
def test_routes_are_laid_over_any_padding(lengths: list[tuple[int, int]], missing: int) -> None:
    prompt, completion = (max(column) for column in zip(*lengths, strict=True))
    real = torch.zeros(len(lengths), prompt + completion, dtype=torch.long)
    sequences = []
    for row, (before, after) in enumerate(lengths):
        real[row, prompt - before : prompt + after] = 1
        known = max(before + after - missing, 0)
        sequences.append(torch.arange(known)[:, None, None] * 10 + torch.arange(2)[None, None])
    laid = aligned_routes(sequences, real, 1, 2)
    for row, (before, after) in enumerate(lengths):
        inside = laid[row, prompt - before : prompt + after, 0]
        known = max(before + after - missing, 0)
        assert inside[:known, 0].tolist() == [10 * i for i in range(known)]
        assert (inside[known:] == UNKNOWN).all()
    assert (laid[real == 0] == UNKNOWN).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_what_an_engine_reports_is_converted(dtype: str, tiny: Any) -> None:
    config = DeepseekConfig(**tiny)  # 1 dense and 2 routed layers, 3 of 8 experts
    reported = np.zeros((4, 3, 3), dtype=dtype)
    reported[:, 1] = [0, 1, 2]
    reported[:3, 2] = [7, 5, 6]  # the last token's row of layer 2 was never written
    routes = routes_of_engine(reported, config)
    assert routes.shape == (4, 2, 3) and routes.dtype == ROUTES_DTYPE
    assert routes[:, 0].tolist() == [[0, 1, 2]] * 4
    assert routes[:, 1].tolist() == [[7, 5, 6]] * 3 + [[UNKNOWN] * 3]
    assert torch.equal(routes_of_engine(reported[:, 1:], config), routes)
    reported[0, 1, 0] = 8  # no such expert
    assert routes_of_engine(reported, config)[0, 0].tolist() == [UNKNOWN] * 3
    with pytest.raises(ValueError, match="expected"):
        routes_of_engine(reported[:, :, :2], config)


def test_wrong_routes_are_refused(fresh: Any) -> None:
    model = fresh().eval()
    ids, _ = batch()
    routes = other_routes(model, (3, 9))
    for wrong in (routes[:, :, :1], routes[..., :2], routes[0], routes + 8):
        with pytest.raises(ValueError), replay_routes(model, wrong):
            pass
    with pytest.raises(ValueError, match="forward pass over"), replay_routes(model, routes[:2]):
        model(ids)
    assert model(ids).logits.isfinite().all()  # nothing is left behind
    assert all(not r.records and r.replay_TK is None for r in model.model.routers)
    dense = Qwen3ForCausalLM(Qwen3Config(vocab_size=8, hidden_size=8, num_hidden_layers=1,
                                         intermediate_size=8, num_attention_heads=1,
                                         num_key_value_heads=1, head_dim=8))  # fmt: skip
    assert routed_layers(dense) == 0
    with pytest.raises(ValueError, match="no routers"), record_routes(dense):
        pass


def test_replay_takes_flips_out_of_the_likelihood_ratio(fresh: Any) -> None:
    """A rollout at bfloat16 weights scored at float32: what is left is rounding, not flips."""
    policy = fresh(hidden_size=64, n_routed_experts=16).eval()
    engine = fresh(hidden_size=64, n_routed_experts=16).eval()
    with torch.no_grad():
        for weight in engine.parameters():
            weight.copy_(weight.bfloat16())
    ids = torch.randint(1, 61, (16, 32))

    def logps(model: Any) -> torch.Tensor:
        found = model(ids).logits[:, :-1].log_softmax(-1)
        return found.gather(-1, ids[:, 1:, None]).squeeze(-1)

    with torch.no_grad():
        with record_routes(engine) as recorder:
            written = logps(engine)
        live = (logps(policy) - written).abs()
        with replay_routes(policy, recorder.take()) as flips:
            replayed = (logps(policy) - written).abs()
    assert flips.share > 0.002
    assert float(replayed.max()) < 0.5 * float(live.max())
    assert float(replayed.mean()) < float(live.mean())
