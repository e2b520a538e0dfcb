"""Attention of one new token per row: few queries, many keys, plain products."""

from __future__ import annotations

import torch
from torch import Tensor

# Shape legend: B rows, K key/value heads, G query heads per key head, T tokens in the cache,
# D and W features of a key and of a value.


def attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float = 1.0
) -> Tensor:
    """Return what queries [B, K, G, D] read from keys [B, K, T, D] and values [B, K, T, W].

    `mask` is additive, [B, 1, T]. The softmax is in float32, as in the modules. On a CPU two
    products take half of `scaled_dot_product_attention`'s time. Returns [B, K * G, W].
    """
    batch, heads, groups, width = query.shape
    flat = query.reshape(batch * heads, groups, width)
    scores = torch.bmm(flat, keys.flatten(0, 1).transpose(1, 2))
    scores = scores.view(batch, heads * groups, -1)
    if query.dtype != torch.float32:
        scores = scores.float()
    if scale != 1:
        scores *= scale
    if mask is not None:
        scores += mask
    weights = scores.softmax(dim=-1).to(query.dtype)
    out = torch.bmm(weights.view(batch * heads, groups, -1), values.flatten(0, 1))
    return out.view(batch, heads * groups, -1)
