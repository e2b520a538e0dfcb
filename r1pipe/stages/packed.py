"""Scores completions without padding: the rows of a pass one behind the other in a single one."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, Trainer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from r1pipe.models.deepseek import DeepseekForCausalLM
from r1pipe.stages.auxiliary import language_model

ATTENTION = "sdpa_or_packed"
"""Name, for transformers, of the attention that keeps packed rows apart; else it is `sdpa`."""
AGREE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Mean |difference| in nats between log-probabilities of packed and of padded rows. In 16 bits
logits around 16 are 0.06 to 0.12 apart; tokens that see those of another row differ by nats."""
UNKNOWN_TO_IT = ("attn_logit_softcapping", "sliding_window_pattern", "layers_block_type")
"""Fields of configs whose attention does more than this one; most have `layer_types` too."""


class PackedScoring(Trainer):
    """Mix in before GRPOTrainer: log-probabilities of whole batches and parts without padding.

    Attention sees where rows begin (FlashAttention's variable lengths on a GPU), positions start
    anew at each; the head sees completions alone, as TRL has it. Rows, columns and values are those
    of the padded pass. Models of another attention than transformers' own keep padding.
    """

    padding_free: bool | None = False
    """None: on a GPU, for models that pass a comparison with padded rows."""
    _packs: bool | None = None

    def packs(self) -> bool:
        """Return whether passes are packed; the first call may compare both ways."""
        if self._packs is None:
            wanted = self.padding_free
            if wanted is None:  # what `flash` is for
                wanted = self.args.device.type == "cuda" and (self.args.bf16 or self.args.fp16)
            self._packs = bool(wanted) and self._can_pack(loud=bool(self.padding_free))
        return self._packs

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **options: Any,
    ) -> Any:
        plain = not any(value is not None for value in options.values())
        if not plain or compute_aux_loss or not self.packs():
            return super()._get_per_token_logps_and_entropies(  # pyright: ignore[reportAttributeAccessIssue]
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **options,
            )
        found = []
        for start in range(0, len(input_ids), batch_size or len(input_ids)):
            rows = slice(start, start + (batch_size or len(input_ids)))
            with self.accelerator.autocast():
                found.append(
                    packed_logps(model, input_ids[rows], attention_mask[rows], logits_to_keep)
                )
        logps, entropies = (torch.cat(each) for each in zip(*found, strict=True))
        return logps, entropies if compute_entropy else None, None

    def _can_pack(self, loud: bool) -> bool:
        """Let the model attend to packed rows if it can, having compared both ways."""
        why = unsuited(language_model(self))
        models = [self.model, getattr(self, "ref_model", None)]
        models = [self.accelerator.unwrap_model(each) for each in models if each is not None]
        if why is None:
            for each in models:
                attend_to_packed(each)
            why = self._disagreement()
        if why is None:
            return True
        if loud and self.accelerator.is_main_process:
            print(f"warning: rows are padded for this model: {why}", file=sys.stderr, flush=True)
        return False

    @torch.no_grad()
    def _disagreement(self) -> str | None:
        """Return why packed and padded log-probabilities of a few tokens differ, or None."""
        model: Any = self.model_wrapped
        size = language_model(self).config.get_text_config().vocab_size
        ids = (torch.arange(2 * 24, device=self.args.device) * 7919 % size).view(2, 24)
        mask = torch.ones_like(ids)
        mask[0, :5], mask[0, 20:] = 0, 0
        training = model.training
        model.eval()
        try:
            self._packs = False
            padded, _, _ = self._get_per_token_logps_and_entropies(model, ids, mask, 12)
            with self.accelerator.autocast():
                packed, _ = packed_logps(model, ids, mask, 12)
        except (RuntimeError, TypeError, KeyError) as error:  # of whatever its layers are made
            return f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            self._packs = None
            model.train(training)
        apart = float((padded - packed)[mask[:, -12:].bool()].abs().mean())
        limit = AGREE[torch.bfloat16 if self.args.bf16 or self.args.fp16 else torch.float32]
        return None if apart <= limit else f"log-probabilities would differ by {apart:.3g} nats"


def packed_logps(
    model: Any, input_ids: Tensor, attention_mask: Tensor, kept: int
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies [rows, kept] of the last `kept` columns.

    `model` has TRL's fused head and has been through `attend_to_packed`. Masked tokens get 0.
    """
    rows, columns = attention_mask.nonzero(as_tuple=True)
    ids = input_ids[rows, columns]
    lengths = attention_mask.sum(1)
    lengths = lengths[lengths > 0]
    ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    position = torch.arange(len(ids), device=ids.device)
    position = position - ends[:-1].repeat_interleave(lengths, output_size=len(ids))
    scored = (columns >= attention_mask.shape[1] - kept) & (position > 0)
    bounds = ends.to(torch.int32)
    longest = int(lengths.max())
    output = model(
        input_ids=ids[None],
        position_ids=position[None],
        # A mask of four dimensions is passed on as it is, and says nothing here.
        attention_mask=ids.new_ones((1, 1, 1, 1), dtype=torch.bool),
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=longest,
        max_length_k=longest,
        labels=ids.masked_fill(~scored, -100)[None],
        fused_lm_head=True,
    )
    shape, place = attention_mask.shape, (rows[1:], columns[1:])
    found = []
    for values in (output.log_probs, output.entropy):
        if values is None:  # the reference has no use for it
            values = torch.zeros_like(output.log_probs)
        whole = values.new_zeros(shape).index_put(place, values[0])
        found.append(whole[:, -kept:])
    return found[0], found[1]


def unsuited(model: Any) -> str | None:
    """Return why rows of this model cannot be packed, or None."""
    config = model.config.get_text_config()
    if config is not model.config:
        return "it reads more than text"
    if isinstance(model, DeepseekForCausalLM):
        return "its attention and its losses are its own"
    if config._attn_implementation not in ("sdpa", ATTENTION):
        return f"its attention is {config._attn_implementation!r}, not 'sdpa'"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention is its own"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"it has layers of the kind {', '.join(sorted(kinds - {'full_attention'}))}"
    if more := [name for name in UNKNOWN_TO_IT if getattr(config, name, None)]:
        return f"its config has {', '.join(more)}"
    return None


def attend_to_packed(model: Any) -> None:
    """Let a transformers model keep the rows of a packed pass apart; other passes are as before."""
    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.set_attn_implementation(ATTENTION)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each row of a packed pass; without `cu_seq_lens_q`, as sdpa does.

    query [1, H, N, D], key and value [1, Hkv, N, D]; returns [1, N, H, D].
    """
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    if query.device.type == "cuda":
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else v.dtype
        if dtype in (torch.bfloat16, torch.float16):
            q, k, v = (each.to(dtype).contiguous() for each in (q, k, v))
            return flash(q, k, v, bounds, int(kwargs["max_length_q"]), scaling)[None], None
    return row_by_row(q, k, v, bounds.tolist(), dropout, scaling)[None], None


def flash(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float | None
) -> Tensor:
    """Attend with FlashAttention as torch has it: query [N, H, D], key and value [N, Hkv, D].

    The operator rather than `torch.nn.attention.varlen`, whose arguments change between versions.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # the operator's backward wants as many heads of each
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    return torch.ops.aten._flash_attention_forward(
        query, key, value, bounds, bounds, longest, longest, 0.0, True, False, scale=scale
    )[0]


def row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Sequence[int],
    dropout: float,
    scale: float | None,
) -> Tensor:
    """Attend to one row after the other: what `flash` computes, on any device and in any dtype."""
    found = []
    for start, end in itertools.pairwise(bounds):
        q, k, v = (each[start:end].transpose(0, 1)[None] for each in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(
            *(q, k, v), dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=True
        )
        found.append(out[0].transpose(0, 1))
    return torch.cat(found)
