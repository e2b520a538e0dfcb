"""Sizes are those of the model that is built, and of the one DeepSeek published."""

from __future__ import annotations

from typing import Any

import pytest

from r1pipe.models.deepseek import DeepseekConfig, describe


@pytest.mark.parametrize(
    "changes",
    [{}, {"q_lora_rank": None}, {"tie_word_embeddings": True}, {"attention_bias": True}],
)
def test_parameters_are_those_of_the_model(changes: dict[str, Any], fresh: Any) -> None:
    model = fresh(num_nextn_predict_layers=2, n_shared_experts=2, **changes)
    built = sum(p.numel() for p in model.parameters())
    built += sum(r.e_score_correction_bias.numel() for r in model.model.routers)
    sizes = describe(model.config)
    assert sizes.parameters + sizes.mtp_parameters == built
    idle = model.config.n_routed_experts - model.config.num_experts_per_tok
    inactive = 2 * idle * 3 * 32 * 16  # two main layers with experts
    assert sizes.active_parameters == sizes.parameters - inactive


def test_deepseek_v3_as_published() -> None:
    sizes = describe(DeepseekConfig())
    assert round(sizes.parameters / 1e9) == 671
    assert sizes.active_parameters / 1e9 == pytest.approx(37, abs=0.6)
    assert sizes.kv_bytes_per_token == 61 * (512 + 64) * 2
    assert sizes.kv_bytes_per_token_mha == 61 * 128 * (128 + 64 + 128) * 2
    assert sizes.kv_bytes_per_token_gqa * 16 == sizes.kv_bytes_per_token_mha
    assert sizes.kv_bytes_per_token_mqa * 128 == sizes.kv_bytes_per_token_mha


def test_flops_follow_the_matrices(fresh: Any) -> None:
    """torch counts the multiplications and additions of a forward pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = fresh(norm_topk_prob=False).eval()
    model.set_experts_implementation("eager")
    model.set_attn_implementation("eager")
    tokens = 16
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randint(1, 61, (1, tokens)), use_cache=False)
    counted = counter.get_total_flops() / tokens
    expected = describe(model.config, context=tokens).forward_flops_per_token
    assert counted == pytest.approx(expected, rel=0.02)
