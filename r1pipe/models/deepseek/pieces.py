"""Stretches of elementwise work that a GPU runs as one or two kernels; elsewhere plain torch.

A model of some hundred million parameters spends as long on these as on its products. Shapes:
B batch, T tokens, H heads, X query features, N of them without position, R with, V value features,
S token-expert pairs sorted by expert, K experts per token, D hidden, W vocabulary.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as stock

_state = {"fuse": True}


@contextmanager
def unfused() -> Iterator[None]:
    """Run the pieces kernel by kernel inside the block: their naive twins."""
    before, _state["fuse"] = _state["fuse"], False
    try:
        yield
    finally:
        _state["fuse"] = before


def fused_on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` when its first argument lies on a CUDA device; leave it alone elsewhere.

    Compiled, intermediate results are not rounded to the arguments' type. Where the compiler does
    not work (it needs a C compiler), that is said once, and plain torch runs.
    """
    compiled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def chosen(first: Tensor, *rest: Any) -> Any:
        if not (first.is_cuda and _state["fuse"]) or torch.compiler.is_compiling():
            return function(first, *rest)
        if not compiled:
            compiled.append(torch.compile(function))
        try:
            return compiled[0](first, *rest)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"pieces are not fused, which is slower: {reason}", stacklevel=2)
            _state["fuse"] = False
            return function(first, *rest)

    return chosen


@fused_on_gpu
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, elementwise."""
    return F.silu(gate) * up


@fused_on_gpu
def queries_keys_values(
    q_BTHX: Tensor,
    kv_BTHY: Tensor,
    k_BTR: Tensor,
    cos: Tensor,
    sin: Tensor,
    nope: int,
    interleave: bool,
    padded: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what attention takes (B, H, T, X), rotary parts turned, the key's shared by heads.

    `kv_BTHY` holds N features of each head's key and V of its value. Values are filled up with
    zeros to `padded` features; 0 leaves them as they are.
    """
    q_BHTN, q_BHTR = q_BTHX.transpose(1, 2).split([nope, q_BTHX.shape[-1] - nope], dim=-1)
    k_BHTN, v_BHTV = kv_BTHY.transpose(1, 2).split([nope, kv_BTHY.shape[-1] - nope], dim=-1)
    rotate = stock.apply_rotary_pos_emb_interleave if interleave else stock.apply_rotary_pos_emb
    q_BHTR, k_B1TR = rotate(q_BHTR, k_BTR.unsqueeze(1), cos, sin)
    q_BHTX = torch.cat([q_BHTN, q_BHTR], dim=-1)
    k_BHTX = torch.cat([k_BHTN, k_B1TR.expand(-1, k_BHTN.shape[1], -1, -1)], dim=-1)
    if padded:
        v_BHTV = F.pad(v_BHTV, (0, padded - v_BHTV.shape[-1]))
    return q_BHTX, k_BHTX, v_BHTV


@fused_on_gpu
def summed_cross_entropy(logits_TW: Tensor, labels_T: Tensor, ignored: int) -> Tensor:
    """Return the sum of the cross-entropies in float32, without a float32 copy of the logits."""
    return F.cross_entropy(logits_TW.float(), labels_T, ignore_index=ignored, reduction="sum")


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor | None,
    vocab_size: int,
    num_items_in_batch: Any = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return what transformers' causal language-model loss returns, of logits (B, T, W)."""
    if shift_labels is None:
        assert labels is not None
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    flat = shift_labels.reshape(-1).to(logits.device)
    total = summed_cross_entropy(logits.reshape(-1, vocab_size), flat, ignore_index)
    if num_items_in_batch is None:
        return total / (flat != ignore_index).sum()
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch


@fused_on_gpu
def _gathered_sum(rows_SD: Tensor, order_S: Tensor, gates_TK: Tensor | None, top_k: int) -> Tensor:
    rows_TKD = rows_SD[order_S].view(-1, top_k, rows_SD.shape[-1])
    if gates_TK is not None:
        rows_TKD = rows_TKD * gates_TK.unsqueeze(-1)
    return rows_TKD.sum(dim=1)


@fused_on_gpu
def _weighted_rows(
    grad_TD: Tensor, rows_SD: Tensor, tokens_S: Tensor, gates_S: Tensor
) -> tuple[Tensor, Tensor]:
    spread_SD = grad_TD[tokens_S]
    inner_S = (spread_SD.float() * rows_SD.float()).sum(dim=-1)
    return (spread_SD * gates_S.unsqueeze(-1)).to(rows_SD.dtype), inner_S.to(gates_S.dtype)


class SortedRows(torch.autograd.Function):
    """Rows of tokens (T, D) repeated and sorted by expert (S, D).

    Its gradient is gathered, K rows to a token; plain indexing would sort or add atomically.
    """

    @staticmethod
    def forward(ctx: Any, rows_TD: Tensor, sort_S: Tensor, back_S: Tensor, top_k: int) -> Tensor:
        """`sort_S` is the pair at each sorted place, `back_S` the place of each pair."""
        ctx.save_for_backward(back_S)
        ctx.top_k = top_k
        return rows_TD[sort_S // top_k]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (back_S,) = ctx.saved_tensors
        return _gathered_sum(grads[0], back_S, None, ctx.top_k), None, None, None


class WeightedSum(torch.autograd.Function):
    """Sum over a token's experts of gate times output: (T, D) of sorted rows (S, D)."""

    @staticmethod
    def forward(
        ctx: Any, rows_SD: Tensor, gates_TK: Tensor, sort_S: Tensor, back_S: Tensor
    ) -> Tensor:
        """Inputs as `SortedRows`' and the gates (T, K)."""
        ctx.save_for_backward(rows_SD, gates_TK, sort_S, back_S)
        return _gathered_sum(rows_SD, back_S, gates_TK, gates_TK.shape[1]).to(rows_SD.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_SD, gates_TK, sort_S, back_S = ctx.saved_tensors
        tokens_S = sort_S // gates_TK.shape[1]
        gates_S = gates_TK.reshape(-1)[sort_S]
        grad_SD, inner_S = _weighted_rows(grads[0], rows_SD, tokens_S, gates_S)
        return grad_SD, inner_S[back_S].view(gates_TK.shape), None, None
