"""One decoding step of Llama-shaped models in a third of the operations of their modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.activations import __name__ as ACTIVATIONS

from r1pipe.rollout.attending import attend
from r1pipe.rollout.states import LayerStates
from r1pipe.rollout.weights import (
    bias_of,
    has_static_angles,
    is_readable,
    joined_bias,
    rotary_tables,
    weight_of,
)

# Shape legend: B rows, C hidden size, H query heads, K key/value heads, G = H/K, N = H + K,
# D head dimension, T tokens in the cache, V vocabulary.

FAMILY = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


def fits(model: Any) -> bool:
    """True when the step computes what the modules of `model` do."""
    return (
        type(model) in FAMILY
        and model.config.hidden_act == "silu"
        and has_static_angles(model.config)
        and is_readable(model, (type(model).__module__, ACTIVATIONS))
    )


class LlamaStep:
    """The forward of one new token per row; a layer's states are keys and values [B, K, T, D].

    Queries, keys and values are one product, as are the two halves of the MLP. In float32, norm
    weights and the attention's scaling are multiplied into them; in bfloat16 that would round
    the weights once more. Same figures as the modules up to rounding.
    """

    def __init__(self, model: Any, positions: int, dtype: torch.dtype) -> None:
        """`positions`: the most tokens a row will have, prompt and completion."""
        backbone = model.model
        self.embedding = backbone.embed_tokens.weight.detach().to(dtype)
        self.layers = [_Attention(layer, dtype) for layer in backbone.layers]
        self.networks = [
            DenseStep(layer.mlp, norm.weight.detach(), norm.variance_epsilon, dtype)
            for layer in backbone.layers
            for norm in [layer.post_attention_layernorm]
        ]
        self.head = Head(model, dtype)
        self.token_features = sum(2 * layer.key_heads * layer.width for layer in self.layers)
        self.routes_shape: tuple[int, int] = (0, 0)
        self.cos, self.sin = rotary_tables(backbone.rotary_emb, positions, self.embedding)

    @staticmethod
    def adopt(keys: Tensor, values: Tensor) -> list[Tensor]:
        """Return a layer's states from what transformers cached."""
        return [keys, values]

    def __call__(
        self, chosen: Tensor, position: Tensor, states: list[Any], mask: Tensor | None
    ) -> Tensor:
        """Feed tokens [B] at `position` [B]; mask additive [B, 1, T]; logits [B, V]."""
        hidden = self.embedding[chosen]
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]  # [B, 1, D]
        for layer, network, stored in zip(self.layers, self.networks, states, strict=True):
            hidden = network(layer(hidden, cos, sin, stored, mask))
        return self.head(hidden)

    def routes(self) -> Tensor:
        """Raise ValueError: there are no experts."""
        raise ValueError("this model has no routers whose choice could be recorded")


class Head:
    """The last norm and the product with the vocabulary."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        norm = model.model.norm
        weight, self.eps = norm.weight.detach(), norm.variance_epsilon
        self.norm, self.out = fold(weight_of(model.lm_head), weight, dtype)
        self.bias = cast(bias_of(model.lm_head), dtype)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [B, V] of the residual stream [B, C]."""
        logits = F.rms_norm(hidden, hidden.shape[-1:], self.norm, self.eps) @ self.out
        return logits if self.bias is None else logits + self.bias


class DenseStep:
    """Norm and gated network, added to the residual stream."""

    def __init__(self, mlp: Any, norm: Tensor, eps: float, dtype: torch.dtype) -> None:
        """`norm` (C): the weight of the norm in front, which has `eps`."""
        gate_up = torch.cat([weight_of(mlp.gate_proj), weight_of(mlp.up_proj)])
        self.norm, self.gate_up = fold(gate_up, norm, dtype)
        self.gate_up_bias = cast(joined_bias([mlp.gate_proj, mlp.up_proj]), dtype)
        self.down = weight_of(mlp.down_proj).to(dtype).t()
        self.down_bias = cast(bias_of(mlp.down_proj), dtype)
        self.eps = eps

    def __call__(self, hidden: Tensor) -> Tensor:
        """Residual stream [B, C] in and out."""
        gate_up = F.rms_norm(hidden, hidden.shape[-1:], self.norm, self.eps) @ self.gate_up
        if self.gate_up_bias is not None:
            gate_up += self.gate_up_bias
        gate, up = gate_up.chunk(2, dim=-1)
        hidden = torch.addmm(hidden, F.silu(gate).mul_(up), self.down)
        return hidden if self.down_bias is None else hidden + self.down_bias


class _Attention:
    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention = layer.self_attn
        self.width = width = attention.head_dim
        joined = [attention.q_proj, attention.k_proj, attention.v_proj]
        query, key, value = map(weight_of, joined)
        self.heads, self.key_heads = query.shape[0] // width, key.shape[0] // width
        self.both = self.heads + self.key_heads
        self.eps = layer.input_layernorm.variance_epsilon
        bias = joined_bias(joined)
        self.scale = float(attention.scaling)
        self.qk_weight: Tensor | None = None  # [N, D]
        if hasattr(attention, "q_norm"):
            self.qk_weight = torch.cat(
                [
                    attention.q_norm.weight.detach().expand(self.heads, width),
                    attention.k_norm.weight.detach().expand(self.key_heads, width),
                ]
            ).to(dtype)
            self.qk_eps = attention.q_norm.variance_epsilon
        if dtype == torch.float32:
            if self.qk_weight is not None:
                self.qk_weight[: self.heads] *= self.scale
            else:
                query = query * self.scale
                if bias is not None:
                    bias[: query.shape[0]] *= self.scale
            self.scale = 1.0
        norm = layer.input_layernorm.weight.detach()
        self.norm, self.qkv = fold(torch.cat([query, key, value]), norm, dtype)
        self.qkv_bias = cast(bias, dtype)
        self.out = weight_of(attention.o_proj).to(dtype).t()
        self.out_bias = cast(bias_of(attention.o_proj), dtype)

    def __call__(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, stored: LayerStates, mask: Tensor | None
    ) -> Tensor:
        """Residual stream [B, C] in and out."""
        rows = len(hidden)
        qkv = F.rms_norm(hidden, hidden.shape[-1:], self.norm, self.eps) @ self.qkv
        if self.qkv_bias is not None:
            qkv += self.qkv_bias
        qkv = qkv.view(rows, self.both + self.key_heads, self.width)
        both = qkv[:, : self.both]  # [B, N, D]
        if self.qk_weight is not None:
            both = F.rms_norm(both, (self.width,), eps=self.qk_eps) * self.qk_weight
        half = self.width // 2
        swapped = torch.cat((both[..., half:], both[..., :half]), dim=-1)
        turned = torch.addcmul(both * cos, swapped, sin)
        keys, values = stored.append(turned[:, self.heads :, None], qkv[:, self.both :, None])
        query = turned[:, : self.heads].unflatten(1, (self.key_heads, -1))
        read = attend(query, keys, values, mask, self.scale)
        hidden = torch.addmm(hidden, read.view(rows, -1), self.out)
        return hidden if self.out_bias is None else hidden + self.out_bias


def fold(weight: Tensor, norm: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
    """Return the norm's weight, or none where it is multiplied in, and the product's right side."""
    if dtype == torch.float32:
        return None, (weight * norm).to(dtype).t().contiguous()
    return norm.to(dtype), weight.to(dtype).t().contiguous()


def cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return the bias in another precision, if there is one."""
    return None if bias is None else bias.to(dtype)
