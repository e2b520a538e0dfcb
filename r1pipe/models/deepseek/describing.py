"""What a configuration amounts to: parameters, key-value cache, arithmetic per token."""

from __future__ import annotations

from dataclasses import dataclass

from r1pipe.models.deepseek.configuration import DeepseekConfig


@dataclass(frozen=True)
class Description:
    """Sizes of one model; MTP modules are counted apart, as in the public model card.

    None is what an architecture other than DeepSeek's has not, or not in this form.
    """

    parameters: int
    """All weights of the main model, embedding and head included."""
    active_parameters: int | None
    """Weights one token meets: K of the routed experts, everything else, the embedding once."""
    mtp_parameters: int | None
    """Weights of the MTP modules; they share embedding and head."""
    kv_bytes_per_token: int | None
    """Cache of one token over all layers; latent, kv_lora_rank + qk_rope_head_dim numbers each."""
    kv_bytes_per_token_mha: int | None
    """The same with keys and values of every head cached."""
    kv_bytes_per_token_gqa: int | None
    """The same with `GQA_GROUPS` key-value heads."""
    kv_bytes_per_token_mqa: int | None
    """The same with one key-value head."""
    forward_flops_per_token: int | None
    """Multiplications and additions of one token's forward pass after `context` tokens."""
    context: int
    """Tokens attended to, for `forward_flops_per_token`."""

    @property
    def training_flops_per_token(self) -> int | None:
        """Forward and backward: three times the forward pass."""
        forward = self.forward_flops_per_token
        return None if forward is None else 3 * forward


GQA_GROUPS = 8


def describe(
    config: DeepseekConfig, bytes_per_number: int = 2, context: int | None = None
) -> Description:
    """Return the sizes of the model `config` describes; nothing is built.

    `bytes_per_number` is the cache's (2: bfloat16); `context` is the tokens a token attends to
    (None: half of `max_position_embeddings`, the mean over a full row of training).
    """
    c = config
    context = c.max_position_embeddings // 2 if context is None else context
    dense_layers = min(c.first_k_dense_replace, c.num_hidden_layers)
    moe_layers = c.num_hidden_layers - dense_layers
    attention, norms = _attention_parameters(c), 2 * c.hidden_size
    dense_mlp = 3 * c.hidden_size * c.intermediate_size
    expert = 3 * c.hidden_size * c.moe_intermediate_size
    # The biases are counted as the weights they are stored beside.
    router = c.n_routed_experts * (c.hidden_size + 1)
    moe_all = (c.n_routed_experts + c.n_shared_experts) * expert + router
    moe_active = (c.num_experts_per_tok + c.n_shared_experts) * expert + router
    embedding = c.vocab_size * c.hidden_size
    embeddings = embedding if c.tie_word_embeddings else 2 * embedding
    every_layer = c.num_hidden_layers * (attention + norms) + c.hidden_size
    total = embeddings + every_layer + dense_layers * dense_mlp + moe_layers * moe_all
    active = embeddings + every_layer + dense_layers * dense_mlp + moe_layers * moe_active
    mtp_block = attention + norms + 2 * c.hidden_size**2 + 3 * c.hidden_size + moe_all

    head_dim = c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim
    scores = 2 * c.num_attention_heads * head_dim * context * c.num_hidden_layers
    looked_up = 0 if c.tie_word_embeddings else embedding  # an embedding is read, not multiplied
    cached = c.num_hidden_layers * bytes_per_number
    return Description(
        parameters=total,
        active_parameters=active,
        mtp_parameters=c.num_nextn_predict_layers * mtp_block,
        kv_bytes_per_token=cached * (c.kv_lora_rank + c.qk_rope_head_dim),
        kv_bytes_per_token_mha=cached * c.num_attention_heads * head_dim,
        kv_bytes_per_token_gqa=cached * min(GQA_GROUPS, c.num_attention_heads) * head_dim,
        kv_bytes_per_token_mqa=cached * head_dim,
        forward_flops_per_token=2 * (active - looked_up) + scores,
        context=context,
    )


def _attention_parameters(c: DeepseekConfig) -> int:
    heads, qk = c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim
    if c.q_lora_rank is None:
        query = c.hidden_size * heads * qk
    else:
        query = c.hidden_size * c.q_lora_rank + c.q_lora_rank * (1 + heads * qk)
    latent = c.hidden_size * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank
    up = c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim)
    out = heads * c.v_head_dim * c.hidden_size
    biases = c.kv_lora_rank + c.qk_rope_head_dim + c.hidden_size + (c.q_lora_rank or 0)
    return query + latent + up + out + (biases if c.attention_bias else 0)
