"""Tiny models of every family the compact loop knows, with weights wide enough to show errors."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import (
    DeepseekV3Config,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.deepseek_v3 import DeepseekV3ForCausalLM

from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM

PAD, END = 0, 1
SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,  # wide, so that random weights have clear preferences
    "pad_token_id": PAD,
    "eos_token_id": END,
}
MLA: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
GROUPS = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}


def deepseek(**changes: Any) -> DeepseekForCausalLM:
    return DeepseekForCausalLM(
        DeepseekConfig(**{**SHAPE, **MLA, "num_nextn_predict_layers": 0, **changes})
    )


MODELS = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
    "qwen3_mha": lambda: Qwen3ForCausalLM(
        Qwen3Config(**{**SHAPE, "num_key_value_heads": 4}, head_dim=8)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama_scaled": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
        )
    ),
    "llama_with_biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "deepseek_v3": lambda: DeepseekV3ForCausalLM(DeepseekV3Config(**{**SHAPE, **MLA})),
    "deepseek": lambda: deepseek(),
    "deepseek_direct_queries": lambda: deepseek(q_lora_rank=None, num_hidden_layers=3),
    "deepseek_yarn": lambda: deepseek(rope_parameters=dict(YARN), max_position_embeddings=128),
    "deepseek_groups_and_mtp": lambda: deepseek(
        **GROUPS, num_nextn_predict_layers=1, n_shared_experts=2
    ),
    "deepseek_wide_latent": lambda: deepseek(
        kv_lora_rank=96, norm_topk_prob=False, attention_bias=True, rope_interleave=False
    ),
}


def build(name: str, attention: str = "sdpa") -> Any:
    """Return the model in training mode."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model.set_attn_implementation(attention)
    with torch.no_grad():  # norm weights start as ones and biases as zeros: errors would hide
        for parameter in [*model.parameters(), *model.buffers()]:
            if parameter.is_floating_point() and parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        for key, buffer in model.named_buffers():
            if "correction_bias" in key:
                buffer += 0.1 * torch.randn_like(buffer)
    return model.train()


def prompts(count: int, lengths: tuple[int, int] = (1, 12)) -> list[list[int]]:
    rng = random.Random(count)
    return [[rng.randrange(2, 40) for _ in range(rng.randint(*lengths))] for _ in range(count)]


def settings(**changes: Any) -> dict[str, Any]:
    base = {
        "max_new_tokens": 30,
        "temperature": 0.0,
        "eos_token_id": [END],
        "pad_token_id": PAD,
        "batch_size": 16,
    }
    return {**base, **changes}
