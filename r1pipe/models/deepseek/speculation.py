"""Self-speculative greedy decoding: the first MTP module drafts, the model checks two at a time.

Rows of a batch accept differently. Rejected drafts stay in the cache as slots nobody attends to,
and positions are counted per row, so that rows never wait for each other. Shapes: B batch, T new
tokens, S cache slots, D hidden features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask

from r1pipe.errors import Problem, UserError

if TYPE_CHECKING:
    from r1pipe.models.deepseek.modeling import DeepseekForCausalLM

NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("do_sample", "return_dict_in_generate", "token_healing"), (False, None)),
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), (1, None)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), (1.0, None)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (0, None)),
    **dict.fromkeys(("min_new_tokens", "min_length"), (0, None)),
    **dict.fromkeys(("penalty_alpha", "diversity_penalty"), (0.0, None)),
    "guidance_scale": (1.0, None),
    "cache_implementation": ("dynamic", None),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens", "begin_suppress_tokens"), (None,)),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "force_words_ids"), (None,)),
    **dict.fromkeys(("sequence_bias", "exponential_decay_length_penalty"), (None,)),
    **dict.fromkeys(("stop_strings", "max_time", "watermarking_config"), (None,)),
    **dict.fromkeys(("constraints", "dola_layers", "prefill_chunk_size"), (None,)),
    **dict.fromkeys(("prompt_lookup_num_tokens", "assistant_early_exit"), (None,)),
}
"""Values of transformers' generation options with which plain greedy decoding is left as it is."""


@dataclass
class Speculated:
    """What was generated, and what it took."""

    sequences: Tensor
    """Prompts and completions (B, T), as `generate` returns them."""
    forward_passes: int
    """Of the main model, prefill included."""
    drafted: int
    """Drafts checked in rows that were not yet done."""
    accepted: int
    """Drafts that were the token greedy decoding gives."""

    @property
    def acceptance(self) -> float:
        """Share of the drafts that were accepted (V3 report 5.4.3: 85 to 90 % for a trained V3)."""
        return self.accepted / max(self.drafted, 1)


def require_greedy(config: Any, ids: Any, rest: dict[str, Any]) -> None:
    """Raise UserError for options that plain greedy decoding of token ids cannot honour.

    `rest` is what a caller gave beside the generation config, in which `NEUTRAL` tells the options.
    """
    wrong = {
        name: value
        for name, values in NEUTRAL.items()
        if (value := getattr(config, name, None)) not in values
    }
    problems = [
        Problem(name, f"received {_shown(value)}: decoding with `use_mtp` is plain greedy decoding")
        for name, value in {**wrong, **rest}.items()
    ]
    if not isinstance(ids, Tensor):
        problems.append(Problem("input_ids", "missing: decoding with `use_mtp` begins with tokens"))
    if problems:
        raise UserError(problems)


def _shown(value: Any) -> str:
    return type(value).__name__ if isinstance(value, Tensor) else repr(value)


def new_tokens(config: Any, ids_BT: Tensor) -> int:
    """Return how many tokens a generation config allows after these prompts; at least one.

    transformers' own default is 20 tokens, prompt included.
    """
    limit, name = config.max_new_tokens, "max_new_tokens"
    if limit is None:
        name, longest = "max_length", 20 if config.max_length is None else config.max_length
        limit = longest - ids_BT.shape[1]
    if limit < 1:
        what = f"leaves no token to write after a prompt of {ids_BT.shape[1]}"
        raise UserError(Problem(name, what, "raise it"))
    return limit


@torch.no_grad()
def speculate(
    model: DeepseekForCausalLM,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    max_new_tokens: int,
    end_ids: list[int],
    pad_id: int,
) -> Speculated:
    """Continue left-padded prompts (B, T) greedily; the tokens are those of plain decoding.

    Raises UserError for a model without MTP modules.
    """
    if not model.model.mtp_layers:
        what = "the model has no MTP modules to draft with"
        raise UserError(
            Problem("use_mtp", what, "load a checkpoint that has them, or leave it out")
        )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    state = _State(model, input_ids, mask.bool())
    made: list[list[int]] = [[] for _ in input_ids]
    done = [False for _ in input_ids]
    drafted = accepted = 0
    fresh_BT, counts_B = state.token_B[:, None], torch.ones_like(state.token_B)
    while True:
        # The one place where a step waits for the device.
        new = torch.cat([counts_B[:, None], fresh_BT], dim=1).tolist()
        for row, (count, *tokens) in enumerate(new):
            if done[row]:
                continue
            if state.forward_passes > 1:
                drafted, accepted = drafted + 1, accepted + count - 1
            for token in tokens[:count]:
                made[row].append(token)
                done[row] = token in end_ids or len(made[row]) == max_new_tokens
                if done[row]:
                    break
        if all(done):
            break
        fresh_BT, agreed_B = state.step()
        counts_B = 1 + agreed_B.long()
    width = max(map(len, made))
    tails = [row + [pad_id] * (width - len(row)) for row in made]
    sequences = torch.cat([input_ids, torch.tensor(tails, device=input_ids.device)], dim=1)
    return Speculated(sequences, state.forward_passes, drafted, accepted)


class _State:
    """The two caches, which of their slots count, and each row's next token with its draft."""

    def __init__(self, model: DeepseekForCausalLM, ids_BT: Tensor, mask_BT: Tensor) -> None:
        self.model = model
        self.layer = model.model.mtp_layers[0]
        self.cache, self.draft_cache = DynamicCache(config=model.config), DynamicCache()
        self.valid_BS = mask_BT
        self.length_B = mask_BT.sum(dim=1)
        positions = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
        hidden_BTD = model.model(
            input_ids=ids_BT,
            attention_mask=mask_BT.long(),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.forward_passes = 1
        self.token_B = _best(model, hidden_BTD[:, -1])
        following_BT = torch.cat([ids_BT[:, 1:], self.token_B[:, None]], dim=1)
        mask = create_causal_mask(
            config=model.config,
            inputs_embeds=hidden_BTD,
            attention_mask=mask_BT.long(),
            past_key_values=None,
            position_ids=positions,
        )
        self.draft_B = self._draft(following_BT, hidden_BTD, positions, mask)[:, -1]

    def step(self) -> tuple[Tensor, Tensor]:
        """Check each row's draft; return two tokens (B, 2) and whether the second counts (B)."""
        pair_BT = torch.stack([self.token_B, self.draft_B], dim=1)
        positions = torch.stack([self.length_B, self.length_B + 1], dim=1)
        mask = self._mask()
        hidden_BTD = self.model.model(
            input_ids=pair_BT,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.forward_passes += 1
        following_BT = _best(self.model, hidden_BTD)
        agreed_B = following_BT[:, 0] == self.draft_B
        drafts_BT = self._draft(following_BT, hidden_BTD, positions, mask)
        last_B1 = agreed_B.long()[:, None]
        self.token_B = following_BT.gather(1, last_B1)[:, 0]
        self.draft_B = drafts_BT.gather(1, last_B1)[:, 0]
        counted = torch.stack([torch.ones_like(agreed_B), agreed_B], dim=1)
        self.valid_BS = torch.cat([self.valid_BS, counted], dim=1)
        self.length_B = self.length_B + 1 + agreed_B.long()
        return following_BT, agreed_B

    def _draft(
        self, following_BT: Tensor, hidden_BTD: Tensor, positions: Tensor, mask: Any
    ) -> Tensor:
        """Return, for each position, the token after the one that follows it (B, T)."""
        backbone = self.model.model
        drafted_BTD = self.layer(
            hidden_BTD,
            next_embeds=backbone.embed_tokens(following_BT),
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=backbone.rotary_emb(hidden_BTD, position_ids=positions),
            past_key_values=self.draft_cache,
        )
        return _best(self.model, drafted_BTD)

    def _mask(self) -> Tensor:
        """Return who sees whom (B, 1, 2, S): every slot that counts, and the pair in order."""
        rows = self.valid_BS.shape[0]
        seen = self.valid_BS[:, None, None, :].expand(rows, 1, 2, -1)
        pair = torch.ones(2, 2, dtype=torch.bool, device=seen.device).tril()
        mask = torch.cat([seen, pair.expand(rows, 1, 2, 2)], dim=-1)
        if self.model.config._attn_implementation != "eager":
            return mask
        dtype = self.model.lm_head.weight.dtype
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def _best(model: DeepseekForCausalLM, hidden: Tensor) -> Tensor:
    return model.lm_head(hidden).argmax(dim=-1)
