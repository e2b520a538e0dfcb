"""Greedy decoding with drafts gives the tokens of greedy decoding without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache

from r1pipe.errors import UserError
from r1pipe.models.deepseek.speculation import speculate


def prompts(rows: int, width: int, seed: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 61, (rows, width), generator=generator)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mask = (torch.arange(width)[None] >= width - lengths[:, None]).long()
    return ids * mask, mask


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("ends", [None, [3, 5, 8, 13, 21, 34]])
def test_tokens_are_those_of_greedy_decoding(
    attention: str, rows: int, ends: list[int] | None, fresh: Any
) -> None:
    model = fresh(num_nextn_predict_layers=1).eval()
    model.set_attn_implementation(attention)
    ids, mask = prompts(rows, 8)
    options = {"attention_mask": mask, "max_new_tokens": 17, "do_sample": False}
    options |= {"eos_token_id": ends, "pad_token_id": 0}
    plain = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, **options, use_mtp=True), plain)


def repeating(fresh: Any) -> Any:
    """A model trained to count, so that its drafts are worth something."""
    model = fresh(num_nextn_predict_layers=1, hidden_size=48, mtp_loss_weight=1.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        start = torch.randint(1, 61, (16, 1))
        ids = (start + torch.arange(16)[None]) % 60 + 1
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_trained_drafts_save_forward_passes(fresh: Any) -> None:
    model = repeating(fresh)
    start = torch.randint(1, 61, (256, 1))
    ids = (start + torch.arange(10)[None]) % 60 + 1
    mask = (torch.arange(10)[None] >= torch.randint(0, 8, (256, 1))).long()
    plain = model.generate(ids * mask, attention_mask=mask, max_new_tokens=24, do_sample=False)
    made = speculate(model, ids * mask, mask, 24, [], 0)
    assert torch.equal(made.sequences, plain)
    assert made.acceptance > 0.6
    assert 24 / made.forward_passes >= 1.4  # the slowest row of 256 decides


@pytest.mark.parametrize(
    "option",
    [
        {"do_sample": True},
        {"num_beams": 2},
        {"num_return_sequences": 2},
        {"repetition_penalty": 1.2},
        {"sequence_bias": [[[5], 9.0]]},
        {"guidance_scale": 2.0},
        {"max_time": 1.0},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 2},
        {"stopping_criteria": [lambda ids, scores: True]},
        {"past_key_values": DynamicCache()},
        {"inputs_embeds": torch.zeros(2, 4, 32)},
        {"max_new_tokens": 0},
        {"max_new_tokens": None, "max_length": 4},
    ],
    ids=lambda option: "-".join(option),
)
def test_what_is_not_plain_greedy_decoding_is_refused(option: dict[str, Any], fresh: Any) -> None:
    model = fresh(num_nextn_predict_layers=1).eval()
    ids, mask = prompts(2, 4)
    asked = {"attention_mask": mask, "use_mtp": True, "max_new_tokens": 2, **option}
    with pytest.raises((UserError, ValueError), match=next(reversed(option))):  # the library's own
        model.generate(ids, **asked)


def test_drafting_needs_modules_and_tokens(fresh: Any) -> None:
    ids, _ = prompts(2, 4)
    with pytest.raises(UserError, match="no MTP modules"):
        fresh().generate(ids, use_mtp=True, max_new_tokens=2, do_sample=False)
    with pytest.raises(UserError, match="input_ids"):
        fresh(num_nextn_predict_layers=1).generate(use_mtp=True, max_new_tokens=2)


def test_options_may_come_as_a_generation_config(fresh: Any) -> None:
    """By position too, where transformers would read the modules from a disk."""
    model = fresh(num_nextn_predict_layers=1).eval()
    ids, mask = prompts(3, 6)
    plain = GenerationConfig(max_length=14, do_sample=False, pad_token_id=0, eos_token_id=[7, 9])
    drafting = GenerationConfig(**{**plain.to_dict(), "use_mtp": True})
    expected = model.generate(ids, plain, attention_mask=mask)
    assert torch.equal(model.generate(ids, drafting, attention_mask=mask), expected)
    named = model.generate(ids, generation_config=drafting, attention_mask=mask)
    assert torch.equal(named, expected)
