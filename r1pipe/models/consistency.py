"""Which values of a DeepSeek configuration fit together; standard library only, for the dry run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r1pipe.errors import Problem

POSITIVE = (
    *("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size"),
    *("num_hidden_layers", "num_attention_heads", "n_shared_experts", "n_routed_experts"),
    *("num_experts_per_tok", "n_group", "topk_group", "kv_lora_rank", "qk_nope_head_dim"),
    *("qk_rope_head_dim", "v_head_dim", "max_position_embeddings"),
)
NOT_NEGATIVE = (
    *("first_k_dense_replace", "num_nextn_predict_layers", "bias_update_speed"),
    *("balance_factor", "mtp_loss_weight", "initializer_range"),
)
FROM_TOKENIZER = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
"""Fields that are the tokenizer's when a recipe leaves them null."""


def inconsistent(config: Any) -> list[Problem]:
    """Return a problem for each field whose value cannot be, or does not fit the others.

    `config` has DeepSeek's field names as attributes; `num_key_value_heads` may be None.
    """
    problems = list(_out_of_range(config))
    return problems or list(_misfits(config))  # the second part divides by what the first checked


def _problem(config: Any, field: str, expected: str) -> Problem:
    return Problem(field, f"received {getattr(config, field)!r}, expected {expected}")


def _out_of_range(config: Any) -> Iterator[Problem]:
    for field in POSITIVE:
        if not (_is_number(value := getattr(config, field)) and value > 0):
            yield _problem(config, field, "a positive number")
    for field in NOT_NEGATIVE:
        if not (_is_number(value := getattr(config, field)) and value >= 0):
            yield _problem(config, field, "zero or more")
    latent = config.q_lora_rank
    if latent is not None and not (_is_number(latent) and latent > 0):
        yield _problem(config, "q_lora_rank", "null or positive")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _misfits(c: Any) -> Iterator[Problem]:
    heads, experts, groups = c.num_attention_heads, c.n_routed_experts, c.n_group
    reach = c.topk_group * (experts // groups)
    for holds, field, expected in (
        (
            c.qk_rope_head_dim % 2 == 0,
            "qk_rope_head_dim",
            "an even number: features turn in pairs",
        ),
        (
            c.num_key_value_heads in (None, heads),
            "num_key_value_heads",
            f"{heads}, one per query head",
        ),
        (c.scoring_func == "sigmoid", "scoring_func", "'sigmoid', the only one implemented"),
        (c.topk_method == "noaux_tc", "topk_method", "'noaux_tc', the only one implemented"),
        (
            c.moe_layer_freq == 1,
            "moe_layer_freq",
            "1, experts in every layer after the dense ones",
        ),
        (experts % groups == 0, "n_group", f"a divisor of n_routed_experts = {experts}"),
        (experts // groups >= 2, "n_group", "at least two experts per group: two are scored"),
        (c.topk_group <= groups, "topk_group", f"at most n_group = {groups}"),
        (
            c.num_experts_per_tok <= reach,
            "num_experts_per_tok",
            f"at most {reach}, the experts of topk_group groups",
        ),
    ):
        if not holds:
            yield _problem(c, field, expected)
