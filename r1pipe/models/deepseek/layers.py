"""Norms, dense networks and grouped experts, as transformers' with fewer kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import SiLUActivation
from transformers.integrations.moe import _grouped_linear
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as stock

from r1pipe.models.deepseek.pieces import SortedRows, WeightedSum, swiglu


class RMSNorm(stock.DeepseekV3RMSNorm):
    """Root-mean-square norm in float32; on a GPU in one kernel, which rounds once."""

    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise the last dimension."""
        if hidden_states.is_cuda and self.weight.dtype in (hidden_states.dtype, torch.float32):
            same = hidden_states.to(self.weight.dtype)  # under autocast a latent is 16 bits wide
            return F.rms_norm(same, self.weight.shape, self.weight, self.variance_epsilon)
        return super().forward(hidden_states)


class FeedForward(stock.DeepseekV3MLP):
    """Dense network: down(act(gate(x)) * up(x))."""

    gate_proj: Any
    up_proj: Any
    down_proj: Any

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., D) of (..., D)."""
        if x.is_cuda and is_silu(self.act_fn):
            return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        # In these words, by which what swaps layers for FP8 knows a gated network.
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def is_silu(activation: Any) -> bool:
    """Whether an activation module is V3's."""
    return isinstance(activation, torch.nn.SiLU | SiLUActivation)


def gated(activation: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
    """Return activation(gate) * up."""
    return swiglu(gate, up) if is_silu(activation) else activation(gate) * up


def grouped_experts(
    hidden_TD: Tensor,
    experts_TK: Tensor,
    gates_TK: Tensor,
    gate_up_EJD: Tensor,
    down_EDI: Tensor,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return what the experts make of their tokens, weighted with the gates: (T, D).

    Tokens are sorted by expert, and each expert's rows are one group of a grouped product. As
    transformers' `grouped_mm`, without its passes for experts on other ranks; nothing here waits
    for the GPU. Autocast knows nothing of grouped products, which in float32 are a loop over the
    experts that reads their loads on the host: so its dtype is taken here.
    """
    device, dtype = hidden_TD.device.type, gate_up_EJD.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    top_k, experts = experts_TK.shape[1], gate_up_EJD.shape[0]
    sorted_S, sort_S = experts_TK.reshape(-1).sort()
    back_S = torch.empty_like(sort_S)
    back_S[sort_S] = torch.arange(len(sort_S), device=sort_S.device)
    counted = sorted_S.int() if sorted_S.is_cuda else sorted_S.float()
    load_E = torch.histc(counted, bins=experts, min=0, max=experts - 1)
    offsets_E = load_E.cumsum(dim=0, dtype=torch.int32)
    rows_SD: Any = SortedRows.apply(hidden_TD.to(dtype), sort_S, back_S, top_k)
    gate_SI, up_SI = _grouped_linear(rows_SD, gate_up_EJD.to(dtype), offsets_E).chunk(2, dim=-1)
    out_SD = _grouped_linear(gated(activation, gate_SI, up_SI), down_EDI.to(dtype), offsets_E)
    summed: Any = WeightedSum.apply(out_SD, gates_TK, sort_S, back_S)
    return summed.to(hidden_TD.dtype)
