"""Multi-head latent attention: expanded keys for prefill and training, absorbed for decoding.

Shapes: B batch, T new tokens, S cached tokens with the new ones, H heads, D hidden features,
C latent features (kv_lora_rank), R rotary features, N features without position, V value features.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    apply_rotary_pos_emb,
    apply_rotary_pos_emb_interleave,
    eager_attention_forward,
)

from r1pipe.models.deepseek.layers import RMSNorm
from r1pipe.models.deepseek.pieces import queries_keys_values

WIDEST_FLASH = 256
"""Features of a head that torch's flash attention takes at most."""


class LatentAttention(DeepseekV3Attention):
    """MLA whose decoding steps run on the cached latents (V2 report, arXiv 2405.04434, 2.1.2).

    A score is q^N·(W_K c) = (W_K^T q^N)·c: with W_K folded into the query and W_V into the output,
    one latent per token serves all heads, and nothing is expanded.
    """

    qk_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    q_proj: Any
    q_a_proj: Any
    q_a_layernorm: Any
    q_b_proj: Any

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        if config.q_lora_rank is not None:
            self.q_a_layernorm = RMSNorm(config.q_lora_rank)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Any,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the attention output (B, T, D) and, where they exist, its weights (B, H, T, S)."""
        if self._absorbs(hidden_states.shape[1], past_key_values, attention_mask):
            assert past_key_values is not None
            return self._absorbed(
                hidden_states, position_embeddings, attention_mask, past_key_values
            )
        if past_key_values is None:
            return self._expanded(hidden_states, position_embeddings, attention_mask, **kwargs)
        return super().forward(
            hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
        )

    def _queries(self, hidden_BTD: Tensor) -> Tensor:
        """Return every head's query (B, T, H, X), not yet turned."""
        low = hidden_BTD if self.q_lora_rank is None else self.q_a_proj(hidden_BTD)
        q_BTX = (
            self.q_proj(low) if self.q_lora_rank is None else self.q_b_proj(self.q_a_layernorm(low))
        )
        return q_BTX.view(*hidden_BTD.shape[:2], -1, self.qk_head_dim)

    def _expanded(
        self, hidden_BTD: Tensor, cos_sin: tuple[Tensor, Tensor], mask: Any, **kwargs: Any
    ) -> Any:
        """Attend as transformers does where nothing is cached, with less copying."""
        B, T, _ = hidden_BTD.shape
        c_BTC, k_BTR = self.kv_a_proj_with_mqa(hidden_BTD).split(
            [self.kv_lora_rank, self.qk_rope_head_dim], dim=-1
        )
        expanded_BTX = self.kv_b_proj(self.kv_a_layernorm(c_BTC))
        q_BTHX, kv_BTHX = self._queries(hidden_BTD), expanded_BTX.view(B, T, self.num_heads, -1)
        padded = self._padded_values(q_BTHX, kv_BTHX, mask)
        query, key, value = queries_keys_values(
            q_BTHX,
            kv_BTHX,
            k_BTR,
            *cos_sin,
            self.qk_nope_head_dim,
            bool(self.config.rope_interleave),
            padded,
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            cast(str, self.config._attn_implementation), eager_attention_forward
        )
        out_BTHV, weights_BHTS = attend(
            self,
            query,
            key,
            value,
            mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        if padded:
            out_BTHV = out_BTHV[..., : self.v_head_dim]
        return self.o_proj(out_BTHV.reshape(B, T, -1).contiguous()), weights_BHTS

    def _padded_values(self, q_BTHX: Tensor, kv_BTHX: Tensor, mask: Any) -> int:
        """Return the features values are filled up to, 0 for none.

        Flash attention wants values as wide as keys, and V3's are 128 to 192: torch would take a
        kernel that is several times slower. Where it has a fast one for both widths it is left to.
        """
        wide = self.qk_head_dim
        if (
            not q_BTHX.is_cuda
            or mask is not None
            or self.config._attn_implementation != "sdpa"
            or q_BTHX.dtype not in (torch.bfloat16, torch.float16)
            or not self.v_head_dim < wide <= WIDEST_FLASH
        ):
            return 0
        if torch.compiler.is_compiling():
            return wide
        query = q_BTHX.detach().transpose(1, 2).requires_grad_(q_BTHX.requires_grad)
        value = kv_BTHX.transpose(1, 2)[..., self.qk_nope_head_dim :]
        chosen = torch._fused_sdp_choice(query, query, value, None, 0.0, True, scale=self.scaling)
        fast = (SDPBackend.FLASH_ATTENTION.value, SDPBackend.CUDNN_ATTENTION.value)
        return 0 if chosen in fast else wide

    def _absorbs(self, new_tokens: int, cache: Cache | None, mask: Any) -> bool:
        """Whether latents are cheaper: multiplications per head, with W the two up-projections.

        Expanded, W is applied to every cached token; absorbed, to every new one, and scores and
        outputs are then longer. A block mask (flex attention) is not read here.
        """
        if self.training or cache is None or not self.config.absorbed_decoding:
            return False
        if mask is not None and not isinstance(mask, Tensor):
            return False
        past = int(cache.get_seq_length(self.layer_idx))
        if past == 0:
            return False
        seen = past + new_tokens
        if not self._has_plain_up_projection() and seen <= self.kv_lora_rank:
            return False
        up_projections = self.kv_lora_rank * (self.qk_nope_head_dim + self.v_head_dim)
        expanded = seen * up_projections + new_tokens * seen * (self.qk_head_dim + self.v_head_dim)
        latent = 2 * self.kv_lora_rank + self.qk_rope_head_dim
        return new_tokens == 1 or new_tokens * (up_projections + seen * latent) < expanded

    def _has_plain_up_projection(self) -> bool:
        """Whether the matrix can be read: not under an adapter, quantised or sharded away."""
        linear = self.kv_b_proj
        return type(linear) is nn.Linear and linear.weight.ndim == 2

    def _up_projection(self) -> Tensor:
        """Return W (H·(N+V), C) of `kv_b_proj`, adapters included."""
        if self._has_plain_up_projection():
            return self.kv_b_proj.weight
        weight = self.kv_a_layernorm.weight
        identity = torch.eye(self.kv_lora_rank, dtype=weight.dtype, device=weight.device)
        return self.kv_b_proj(identity).transpose(0, 1)

    def _absorbed(
        self,
        hidden_BTD: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: Cache,
    ) -> tuple[Tensor, Tensor]:
        B, T, _ = hidden_BTD.shape
        H, C, R = self.num_heads, self.kv_lora_rank, self.qk_rope_head_dim
        q_BHTX = self._queries(hidden_BTD).transpose(1, 2)
        q_BHTN, q_BHTR = q_BHTX.split([self.qk_nope_head_dim, R], dim=-1)
        c_BTC, k_BTR = self.kv_a_proj_with_mqa(hidden_BTD).split([C, R], dim=-1)
        c_B1TC = self.kv_a_layernorm(c_BTC).unsqueeze(1)
        rotate = (
            apply_rotary_pos_emb_interleave if self.config.rope_interleave else apply_rotary_pos_emb
        )
        q_BHTR, k_B1TR = rotate(q_BHTR, k_BTR.unsqueeze(1), *cos_sin)
        c_B1SC, k_B1SR = cache.update(c_B1TC, k_B1TR, self.layer_idx)
        c_BSC, k_BSR = c_B1SC[:, 0], k_B1SR[:, 0]

        up_HXC = self._up_projection().reshape(H, self.qk_nope_head_dim + self.v_head_dim, C)
        up_k_HNC, up_v_HVC = up_HXC.split([self.qk_nope_head_dim, self.v_head_dim], dim=1)
        q_BHTC = torch.einsum("bhtn,hnc->bhtc", q_BHTN, up_k_HNC)
        # All heads share the keys, so that heads are just more rows of one product.
        scores_BXS = q_BHTC.reshape(B, H * T, C) @ c_BSC.transpose(1, 2)
        scores_BXS = scores_BXS + q_BHTR.reshape(B, H * T, R) @ k_BSR.transpose(1, 2)
        scores_BHTS = scores_BXS.view(B, H, T, -1).float() * self.scaling
        scores_BHTS = _masked(scores_BHTS, mask)
        weights_BHTS = scores_BHTS.softmax(dim=-1).to(hidden_BTD.dtype)
        out_BHTC = (weights_BHTS.view(B, H * T, -1) @ c_BSC).view(B, H, T, C)
        out_BTHV = torch.einsum("bhtc,hvc->bthv", out_BHTC, up_v_HVC)
        return self.o_proj(out_BTHV.reshape(B, T, H * self.v_head_dim)), weights_BHTS


def _masked(scores_BHTS: Tensor, mask: Tensor | None) -> Tensor:
    """Apply what transformers hands its attention functions: nothing, padding (B, S) or B1TS."""
    T, S = scores_BHTS.shape[-2:]
    lowest = torch.finfo(scores_BHTS.dtype).min
    if mask is not None and mask.ndim == 4:
        if mask.dtype == torch.bool:
            return scores_BHTS.masked_fill(~mask, lowest)
        return scores_BHTS + mask.float()
    if T > 1:
        past = torch.ones(T, S, dtype=torch.bool, device=scores_BHTS.device).tril(S - T)
        scores_BHTS = scores_BHTS.masked_fill(~past, lowest)
    if mask is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask[:, None, None, :].bool(), lowest)
    return scores_BHTS
