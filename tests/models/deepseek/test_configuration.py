"""The configuration holds DeepSeek-V3's values and refuses what does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import DeepseekV3Config

from r1pipe.errors import UserError
from r1pipe.models.deepseek import DeepseekConfig


def test_defaults_are_the_published_values() -> None:
    ours, stock = DeepseekConfig().to_dict(), DeepseekV3Config().to_dict()
    differing = {name for name, value in stock.items() if ours[name] != value}
    assert differing == {"initializer_range"}  # V3 4.2: 0.006


@pytest.mark.parametrize("rope", [None, "yarn"])
def test_to_stock_and_back_is_lossless(rope: str | None, tiny: Any, yarn: Any) -> None:
    extra = {"rope_parameters": yarn} if rope else {}
    stock = DeepseekV3Config(**tiny, **extra, ep_size=1, seq_aux=True)
    ours = DeepseekConfig.from_stock(stock)
    back = ours.to_stock().to_dict()
    assert {name: back[name] for name in stock.to_dict()} == stock.to_dict()
    changed = DeepseekConfig.from_stock(stock, bias_update_speed=0.5, mtp_loss_weight=0.1)
    assert DeepseekConfig.from_stock(changed.to_stock()).to_dict() == changed.to_dict()


def test_public_config_json(tiny: Any) -> None:
    """As DeepSeek publishes it: `rope_scaling`, and names that only its own code reads."""
    public = {
        **{k: v for k, v in tiny.items() if k != "num_key_value_heads"},
        "num_key_value_heads": 4,
        "aux_loss_alpha": 0.001,
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        "ep_size": 1,
        "moe_layer_freq": 1,
        "model_type": "deepseek_v3",
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "scoring_func": "sigmoid",
        "seq_aux": True,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
    }
    config = DeepseekConfig.from_dict(json.loads(json.dumps(public)))
    assert config.rope_parameters["rope_type"] == "yarn"
    assert config.rope_parameters["factor"] == 40
    assert config.balance_factor == 0.0001


def test_derived_sizes_follow_the_fields(tiny: Any) -> None:
    stock = DeepseekV3Config(**tiny)
    config = DeepseekConfig.from_stock(stock, qk_rope_head_dim=4)
    assert config.head_dim == 4 and config.qk_head_dim == 12


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_group": 3}, ["n_group"]),
        ({"n_group": 8}, ["n_group"]),
        ({"topk_group": 5}, ["topk_group"]),
        ({"num_experts_per_tok": 5}, ["num_experts_per_tok"]),
        ({"qk_rope_head_dim": 7}, ["qk_rope_head_dim"]),
        ({"num_key_value_heads": 2}, ["num_key_value_heads"]),
        ({"scoring_func": "softmax"}, ["scoring_func"]),
        ({"topk_method": "greedy"}, ["topk_method"]),
        ({"moe_layer_freq": 2}, ["moe_layer_freq"]),
        ({"hidden_act": "sillu"}, ["hidden_act"]),
        ({"balance_factor": -1.0, "bias_update_speed": -0.1}, ["balance_factor", "bias_update"]),
        ({"kv_lora_rank": 0}, ["kv_lora_rank"]),
        ({"q_lora_rank": -1}, ["q_lora_rank"]),
        ({"kv_lora_ranks": 8}, ["kv_lora_ranks", "did you mean `kv_lora_rank`"]),
        ({"num_next_predict_layers": 1}, ["did you mean `num_nextn_predict_layers`"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    changes: dict[str, Any], named: list[str], tiny: Any
) -> None:
    with pytest.raises(UserError) as error:
        DeepseekConfig(**{**tiny, **changes})
    assert all(name in str(error.value) for name in named)
