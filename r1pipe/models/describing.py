"""What a Hugging Face configuration amounts to: parameters, key-value cache, arithmetic."""

from __future__ import annotations

import re
from typing import Any

from r1pipe.errors import Problem, UserError
from r1pipe.models.deepseek.configuration import DeepseekConfig
from r1pipe.models.deepseek.describing import GQA_GROUPS, Description, describe

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layer types whose cache holds keys and values of every token (of a window, at first)."""


def describe_config(
    config: Any, bytes_per_number: int = 2, context: int | None = None
) -> Description:
    """Return the sizes of the causal language model `config` describes; no weights are made.

    Parameters are counted on the meta device. What is not defined for an architecture is None: the
    cache where layers are no plain attention, active parameters where experts cannot be told.
    """
    if isinstance(config, DeepseekConfig):
        return describe(config, bytes_per_number, context)
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise UserError(Problem("model.path", f"not a causal language model: {first}")) from error
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or 4096
    seen: int = longest // 2 if context is None else context
    weights = {name: p.numel() for name, p in model.named_parameters()}
    total = sum(weights.values())
    active = _active(weights, text)
    features = _head_features(text)
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    flops = None
    if active is not None and features is not None:
        own = getattr(model.get_input_embeddings(), "weight", None)
        tied = own is not None and own is getattr(model.get_output_embeddings(), "weight", None)
        looked_up = 0 if own is None or tied else own.numel()
        scores = 4 * heads * features * sum(_attended(text, seen))
        flops = 2 * (active - looked_up) + scores
    each = None if features is None else 2 * features * layers * bytes_per_number

    def cached(key_value_heads: int) -> int | None:
        return None if each is None else each * key_value_heads

    return Description(
        parameters=total,
        active_parameters=active,
        mtp_parameters=None,
        kv_bytes_per_token=cached(getattr(text, "num_key_value_heads", None) or heads),
        kv_bytes_per_token_mha=cached(heads),
        kv_bytes_per_token_gqa=cached(min(GQA_GROUPS, heads)),
        kv_bytes_per_token_mqa=cached(1),
        forward_flops_per_token=flops,
        context=seen,
    )


def _head_features(text: Any) -> int | None:
    """Return the features of a head, None where layers cache something else than heads."""
    kinds = set(getattr(text, "layer_types", None) or ATTENTION)
    if not kinds <= ATTENTION or getattr(text, "kv_lora_rank", None):
        return None
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _attended(text: Any, context: int) -> list[int]:
    """Return how many tokens each layer attends to."""
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    window = getattr(text, "sliding_window", None) or context
    return [context if kind == "full_attention" else min(context, window) for kind in kinds]


def _active(weights: dict[str, int], text: Any) -> int | None:
    """Return the weights one token meets: of the routed experts, those it is sent to."""
    routed = sum(n for name, n in weights.items() if re.search(r"\.experts(\.|$)", name))
    if not routed:
        return sum(weights.values())
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((count for name in names if (count := getattr(text, name, None))), None)
    chosen = getattr(text, "num_experts_per_tok", None)
    if not experts or not chosen:
        return None
    return sum(weights.values()) - routed + routed * chosen // experts
