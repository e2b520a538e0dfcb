"""Small models of transformers' own classes with random weights, norms included."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

KINDS: dict[str, tuple[Any, Any]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def stock_model(kind: str, **changes: Any) -> Any:
    """Return a model of two layers with a vocabulary of 97; the same weights every time."""
    shape = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    shape |= {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
    config_class, model_class = KINDS[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**{**shape, "max_position_embeddings": 128, **changes}))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:  # norms and biases, which begin as ones and zeros
                weight.add_(0.3 * torch.randn_like(weight))
    return model
