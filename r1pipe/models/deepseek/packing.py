"""Packed sequences: several in one row, kept apart by where positions start anew.

Shapes: B batch, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask


def packed_positions(
    shape: torch.Size, position_ids: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor | None:
    """Return positions (B, T) that start anew with each packed sequence, None when none is packed.

    Read from `cu_seq_lens_q` (one row, cumulative lengths) when given, else from `position_ids`.
    Where padding begins or ends does not count: left-padded rows jump there.
    """
    lengths = kwargs.get("cu_seq_lens_q")
    if lengths is not None and shape[0] == 1:
        starts = torch.zeros(shape, dtype=torch.bool, device=lengths.device)
        inner = lengths[:-1].long()
        starts[0, inner[inner < shape[1]]] = True
        starts[:, 0] = False
        return _positions(starts) if bool(starts.any()) else None
    if position_ids is None or shape[1] < 2:
        return None
    if mask is not None and mask.ndim != 2:
        return None
    positions = position_ids.expand(shape)
    starts = torch.zeros(shape, dtype=torch.bool, device=positions.device)
    starts[:, 1:] = positions.diff(dim=1) != 1
    if mask is not None:
        real = mask[:, -shape[1] :].bool()
        starts[:, 1:] &= real[:, 1:] & real[:, :-1]
    return _positions(starts) if bool(starts.any()) else None


def segments(
    shape: torch.Size, packing: Tensor | None, mask: Tensor | None, device: torch.device
) -> Tensor:
    """Return the sequence (B, T) every token belongs to, counted over the batch; -1 for padding."""
    starts = torch.zeros(shape, dtype=torch.bool, device=device)
    if packing is not None:
        starts |= packing == 0
    starts[:, 0] = True
    numbers = starts.flatten().cumsum(0).view(shape) - 1
    if mask is not None and mask.ndim == 2:
        numbers = numbers.masked_fill(~mask[:, -shape[1] :].bool().to(device), -1)
    return numbers


def causal_mask(config: Any, embeds_BTD: Tensor, packing: Tensor, mask: Tensor | None) -> Any:
    """Return the mask in which a token sees its own sequence only, as the attention in use has it.

    transformers looks for packed rows only where there is neither a mask nor a cache.
    """
    if mask is not None:
        starts = packing == 0
        starts[:, 1:] |= mask[:, 1:].bool() != mask[:, :-1].bool()
        packing = _positions(starts)
    return create_causal_mask(
        config=config,
        inputs_embeds=embeds_BTD,
        attention_mask=None,
        past_key_values=None,
        position_ids=packing,
    )


def _positions(starts_BT: Tensor) -> Tensor:
    """Return 0, 1, 2, ... from each start on."""
    index = torch.arange(starts_BT.shape[1], device=starts_BT.device).expand(starts_BT.shape)
    first = torch.where(starts_BT, index, torch.zeros_like(index)).cummax(dim=1).values
    return index - first
