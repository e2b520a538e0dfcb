"""Greedy decoding with drafts gives the tokens of greedy decoding without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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


def test_what_is_not_greedy_is_refused(fresh: Any) -> None:
    model = fresh(num_nextn_predict_layers=1).eval()
    ids, mask = prompts(2, 4)
    for option in ({"do_sample": True}, {"num_beams": 2}, {"repetition_penalty": 1.2}):
        with pytest.raises(UserError, match=next(iter(option))):
            model.generate(ids, attention_mask=mask, use_mtp=True, max_new_tokens=2, **option)
    with pytest.raises(UserError, match="no MTP modules"):
        fresh().generate(ids, use_mtp=True, max_new_tokens=2, do_sample=False)
