"""Multi-token prediction: the training loss of the MTP modules.

Shapes: B batch, T tokens, D hidden features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from r1pipe.models.deepseek.experts import recorded, routers_of

if TYPE_CHECKING:
    from r1pipe.models.deepseek.auxiliary import Trace
    from r1pipe.models.deepseek.modeling import DeepseekForCausalLM

IGNORED = -100
"""Label of a position that is not trained on."""


def mtp_loss(model: DeepseekForCausalLM, trace: Trace, labels: Tensor) -> Tensor:
    """Return the mean over depths of the MTP losses, without lambda (V3 report, eq. 21-25).

    Module k sees, at position i, the representation of the module before it (the main model's after
    its final norm) and the embedding of token i+k, and predicts token i+k+1. Sequences end where
    their tokens end: nothing is predicted across packed neighbours or into padding. The routers'
    decisions are added to the trace.
    """
    backbone = model.model
    hidden_BTD, apart_BT = trace.hidden_BTD, trace.segments_BT
    mask: Any = create_causal_mask(
        config=model.config,
        inputs_embeds=trace.embeds_BTD,
        attention_mask=trace.attention_mask,
        past_key_values=None,
        position_ids=trace.position_ids,
    )
    positions = trace.position_ids
    cos_sin = backbone.rotary_emb(hidden_BTD, position_ids=positions)
    labels = labels.to(hidden_BTD.device)
    total = hidden_BTD.new_zeros((), dtype=torch.float32)
    for k, layer in enumerate(backbone.mtp_layers, start=1):
        with recorded(routers_of(layer)) as new:
            hidden_BTD = layer(
                hidden_BTD,
                next_embeds=ahead(trace.embeds_BTD, k, 0),
                attention_mask=mask,
                position_ids=positions,
                position_embeddings=cos_sin,
            )
        inside_BT = (apart_BT >= 0) & (ahead(apart_BT, k, -1) == apart_BT)
        trace.choices += [(choice, apart_BT.masked_fill(~inside_BT, -1)) for choice in new]
        target_BT = ahead(labels, k + 1, IGNORED)
        outside_BT = (apart_BT < 0) | (ahead(apart_BT, k + 1, -1) != apart_BT)
        target_BT = target_BT.masked_fill(outside_BT, IGNORED)
        trained = target_BT != IGNORED
        logits = model.lm_head(hidden_BTD[trained]).float()
        # A micro-batch without a target counts as zero, and still reaches every parameter.
        summed = F.cross_entropy(logits, target_BT[trained], reduction="sum")
        total = total + summed / trained.sum().clamp(min=1)
    return total / len(backbone.mtp_layers)


def ahead(values: Tensor, steps: int, fill: int) -> Tensor:
    """Return, at every position of dimension 1, the value `steps` later; `fill` after the end."""
    steps = min(steps, values.shape[1])
    tail = torch.full_like(values[:, :steps], fill)
    return torch.cat([values[:, steps:], tail], dim=1)
