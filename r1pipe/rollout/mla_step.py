"""One decoding step of models with multi-head latent attention, on the cached latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import __name__ as ACTIVATIONS
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as stock

from r1pipe.models.deepseek.auxiliary import add_auxiliary_losses, ask_for_no_router_logits
from r1pipe.models.deepseek.modeling import DeepseekForCausalLM
from r1pipe.rollout.attending import attend
from r1pipe.rollout.llama_step import DenseStep, Head, cast, fold
from r1pipe.rollout.mixture_step import Experts, MixtureStep
from r1pipe.rollout.states import LayerStates
from r1pipe.rollout.weights import (
    bias_of,
    has_static_angles,
    is_readable,
    rotary_tables,
    weight_of,
)

# Shape legend: B rows, D hidden features, Q inputs of the query product, H heads, N and R features
# of a head's query without and with rotation, V of its value, C latent features, L = C + R,
# T tokens in the cache.

FAMILY = (DeepseekForCausalLM, stock.DeepseekV3ForCausalLM)
OURS = "r1pipe.models.deepseek."
PLAIN_EXPERTS = (None, "eager", "grouped_mm", "batched_mm")
"""Ways through the experts that compute in the weights' own precision."""
FILES = (stock.__name__, ACTIVATIONS, *(OURS + name for name in ("attention", "experts", "layers")))
FILES = (*FILES, OURS + "modeling")


def fits(model: Any) -> bool:
    """True when the step computes what the modules of `model` do."""
    return (
        type(model) in FAMILY
        and model.config.hidden_act == "silu"
        and has_static_angles(model.config)
        and getattr(model.config, "_experts_implementation", None) in PLAIN_EXPERTS
        and is_readable(model, FILES, (add_auxiliary_losses, ask_for_no_router_logits))
    )


class MlaStep:
    """The forward of one new token per row; a layer's state is its latents [B, 1, T, L].

    Up-projections are multiplied into the query and the output wherever that saves work; norm
    weights and the attention's scaling into the products, in float32. Same figures as the modules
    up to rounding.
    """

    def __init__(
        self, model: Any, positions: int, dtype: torch.dtype, experts: Experts | None = None
    ) -> None:
        """`positions`: the most tokens a row will have, prompt and completion."""
        backbone = model.model
        self.embedding = backbone.embed_tokens.weight.detach().to(dtype)
        layers = backbone.layers[: model.config.num_hidden_layers]  # MTP modules come after
        self.layers = [_Attention(layer, dtype) for layer in layers]
        self.networks = [_network(layer, dtype, experts) for layer in layers]
        self.mixtures = [part for part in self.networks if isinstance(part, MixtureStep)]
        self.head = Head(model, dtype)
        self.token_features = sum(layer.latent + layer.rotary for layer in self.layers)
        self.routes_shape = (len(self.mixtures), model.config.num_experts_per_tok)
        self.cos, self.sin = rotary_tables(backbone.rotary_emb, positions, self.embedding)

    @staticmethod
    def adopt(keys: Tensor, values: Tensor) -> list[Tensor]:
        """Return a layer's state from what transformers cached: latents and rotated keys."""
        return [torch.cat((keys, values), dim=-1)]

    def __call__(
        self, chosen: Tensor, position: Tensor, states: list[Any], mask: Tensor | None
    ) -> Tensor:
        """Feed tokens [B] at `position` [B]; mask additive [B, 1, T]; logits [B, vocabulary]."""
        hidden = self.embedding[chosen]
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]  # [B, 1, R]
        for layer, network, stored in zip(self.layers, self.networks, states, strict=True):
            hidden = network(layer(hidden, cos, sin, stored, mask))
        return self.head(hidden)

    def routes(self) -> Tensor:
        """Return the experts of the last step [B, MoE layers, experts per token]."""
        chosen = [mixture.route for mixture in self.mixtures if mixture.route is not None]
        return torch.stack(chosen, dim=1)


def _network(layer: Any, dtype: torch.dtype, experts: Experts | None) -> Any:
    norm = layer.post_attention_layernorm
    weight, eps = norm.weight.detach(), norm.variance_epsilon
    if isinstance(layer.mlp, stock.DeepseekV3MLP):
        return DenseStep(layer.mlp, weight, eps, dtype)
    return MixtureStep(layer.mlp, weight, eps, dtype, experts)


class _Attention:
    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        mla, norm = layer.self_attn, layer.input_layernorm
        self.heads, self.latent, self.rotary = mla.num_heads, mla.kv_lora_rank, mla.qk_rope_head_dim
        self.plain, self.value = mla.qk_nope_head_dim, mla.v_head_dim
        self.folded = dtype == torch.float32
        self.scale = 1.0 if self.folded else float(mla.scaling)
        self.eps = norm.variance_epsilon
        self.latent_norm = mla.kv_a_layernorm.weight.detach().to(dtype)
        self.latent_eps = mla.kv_a_layernorm.variance_epsilon
        up = weight_of(mla.kv_b_proj).view(self.heads, self.plain + self.value, self.latent)
        up_key, up_value = up.split([self.plain, self.value], dim=1)  # [H, N, C] and [H, V, C]
        query, query_bias = self._query(mla, up_key)
        self.up_key = up_key.to(dtype).contiguous()
        key = _apart(mla, weight_of(mla.kv_a_proj_with_mqa), self.latent)
        key_bias = bias_of(mla.kv_a_proj_with_mqa)
        key_bias = None if key_bias is None else _apart(mla, key_bias, self.latent)
        first, biases = [query, key], [query_bias, key_bias]
        self.low_rank = mla.q_lora_rank is not None
        if self.low_rank:
            middle = mla.q_a_layernorm
            self.query_norm, self.query = fold(query, middle.weight.detach(), dtype)
            self.query_bias, self.query_eps = cast(query_bias, dtype), middle.variance_epsilon
            first, biases = [weight_of(mla.q_a_proj), key], [bias_of(mla.q_a_proj), key_bias]
        self.widths = [part.shape[0] for part in first]
        self.norm, self.first = fold(torch.cat(first), norm.weight.detach(), dtype)
        self.first_bias = cast(_joined(biases, first), dtype)
        self.up_value, self.out = self._output(weight_of(mla.o_proj), up_value, dtype)
        self.out_bias = cast(bias_of(mla.o_proj), dtype)

    def _query(self, mla: Any, up_key: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the last query product, as rows of heads.

        With `absorb_query` its results meet latents: L features a head, not N + R.
        """
        last = mla.q_b_proj if mla.q_lora_rank is not None else mla.q_proj
        bias = bias_of(last)
        parts = [weight_of(last), *([] if bias is None else [bias[:, None]])]
        by_head = [part.view(self.heads, self.plain + self.rotary, -1) for part in parts]
        by_head = [_apart(mla, part, self.plain, dim=1) for part in by_head]
        inputs = last.in_features
        # Absorbed, a head's query costs Q C; in two steps (Q + C) N.
        self.absorb_query = self.folded and inputs * self.latent <= 2 * self.plain * (
            inputs + self.latent
        )
        if self.folded:
            by_head = [part * mla.scaling for part in by_head]
        if self.absorb_query:
            by_head = [_absorbed(part, self.plain, up_key) for part in by_head]
        rows = [part.flatten(0, 1) for part in by_head]
        return rows[0], None if bias is None else rows[1][:, 0]

    def _output(
        self, out: Tensor, up_value: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor]:
        """Return the value up-projection [H, C, V], if it stays apart, and the output product."""
        model_width = len(out)
        apart = 2 * self.value * (self.latent + model_width)
        if self.folded and self.latent * model_width <= apart:
            by_head = out.view(model_width, self.heads, self.value)
            absorbed = torch.einsum("dhv,hvc->hcd", by_head, up_value)
            return None, absorbed.flatten(0, 1).contiguous()
        return up_value.to(dtype).transpose(1, 2).contiguous(), out.to(dtype).t().contiguous()

    def __call__(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, stored: LayerStates, mask: Tensor | None
    ) -> Tensor:
        """Residual stream [B, D] in and out."""
        rows = len(hidden)
        normed = F.rms_norm(hidden, hidden.shape[-1:], self.norm, self.eps)
        first = normed @ self.first
        if self.first_bias is not None:
            first += self.first_bias
        both = self._queries_and_key(first)  # [B, H + 1, L]: the last is the token's own
        half, turning = self.rotary // 2, both[..., self.latent :]
        swapped = torch.cat((turning[..., half:], turning[..., :half]), dim=-1)
        turned = torch.addcmul(turning * cos, swapped, sin)
        both = torch.cat((both[..., : self.latent], turned), dim=-1)
        new = both[:, None, self.heads :]  # [B, 1, 1, L]
        new[..., : self.latent] = F.rms_norm(
            new[..., : self.latent], (self.latent,), self.latent_norm, self.latent_eps
        )
        (latents,) = stored.append(new)
        query = both[:, None, : self.heads]
        read = attend(query, latents, latents[..., : self.latent], mask, self.scale)
        if self.up_value is not None:
            read = torch.bmm(read.transpose(0, 1), self.up_value).transpose(0, 1)
        hidden = torch.addmm(hidden, read.reshape(rows, -1), self.out)
        return hidden if self.out_bias is None else hidden + self.out_bias

    def _queries_and_key(self, first: Tensor) -> Tensor:
        """Return [B, H + 1, L] from the first product."""
        rows, width = len(first), self.latent + self.rotary
        if self.absorb_query and not self.low_rank:
            return first.view(rows, self.heads + 1, width)
        low, key = first.split(self.widths, dim=-1)
        key = key.reshape(rows, 1, width)
        if self.low_rank:
            low = F.rms_norm(low, low.shape[-1:], self.query_norm, self.query_eps) @ self.query
            if self.query_bias is not None:
                low += self.query_bias
        query = low.reshape(rows, self.heads, -1)
        if self.absorb_query:
            return torch.cat((query, key), dim=1)
        plain, turning = query.split([self.plain, self.rotary], dim=-1)
        plain = torch.bmm(plain.transpose(0, 1), self.up_key).transpose(0, 1)
        return torch.cat((torch.cat((plain, turning), dim=-1), key), dim=1)


def _apart(mla: Any, weight: Tensor, start: int, dim: int = 0) -> Tensor:
    """Return `weight` with the rotated features, from `start` on, as the cached keys have them:

    neighbours that turn together moved to the two halves.
    """
    if not mla.config.rope_interleave:
        return weight
    turning = torch.arange(start, weight.shape[dim], device=weight.device)
    fixed = torch.arange(start, device=weight.device)
    return weight.index_select(dim, torch.cat([fixed, turning[::2], turning[1::2]]))


def _absorbed(query: Tensor, plain: int, up_key: Tensor) -> Tensor:
    """Return the query weight (H, N + R, Q) as one whose result meets latents: (H, C + R, Q)."""
    down, turning = query.split([plain, query.shape[1] - plain], dim=1)
    return torch.cat([torch.einsum("hnc,hnq->hcq", up_key, down), turning], dim=1)


def _joined(biases: list[Tensor | None], weights: list[Tensor]) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    parts = zip(biases, weights, strict=True)
    return torch.cat([w.new_zeros(w.shape[0]) if b is None else b for b, w in parts])
