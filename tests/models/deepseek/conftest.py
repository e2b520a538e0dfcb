"""Tiny DeepSeek models and their stock twins, with weights wide enough for differences to show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM

TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "max_position_embeddings": 128,
    "num_nextn_predict_layers": 0,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


@pytest.fixture(autouse=True)
def one_seed() -> None:
    torch.manual_seed(0)


def stock_model(**changes: Any) -> DeepseekV3ForCausalLM:
    """Return a stock model whose layers all matter: wide weights, uneven biases and norms."""
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**{**TINY, **changes}))
    return widened(model).eval()


def widened(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.copy_(1 + 0.2 * noise)
            elif "e_score_correction_bias" in name:
                weight.copy_(0.1 * noise)
            elif weight.ndim > 1:
                weight.copy_(noise / weight.shape[-1] ** 0.5)
    return model


def our_model(stock: DeepseekV3ForCausalLM, **changes: Any) -> DeepseekForCausalLM:
    """Return our model with the stock model's weights."""
    config = DeepseekConfig.from_stock(stock.config, **{"balance_factor": 0.0, **changes})
    model = DeepseekForCausalLM(config)
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    first = f"model.layers.{config.num_hidden_layers}"
    assert all(name >= first for name in missing), missing
    return model.eval()


def fresh_model(**changes: Any) -> DeepseekForCausalLM:
    """Return our model with wide random weights."""
    return widened(DeepseekForCausalLM(DeepseekConfig(**{**TINY, **changes})))


@pytest.fixture
def stock() -> Callable[..., DeepseekV3ForCausalLM]:
    return stock_model


@pytest.fixture
def ours() -> Callable[..., DeepseekForCausalLM]:
    return our_model


@pytest.fixture
def fresh() -> Callable[..., DeepseekForCausalLM]:
    return fresh_model


@pytest.fixture
def yarn() -> dict[str, Any]:
    return dict(YARN)


@pytest.fixture
def tiny() -> dict[str, Any]:
    return dict(TINY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"
