"""Packed sequences say what each says alone, however the packing is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def packed(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    ids = torch.randint(1, 61, (1, sum(lengths)))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    flash = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
    flash |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    return ids, positions, flash


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    told=st.sampled_from(["positions", "lengths", "both", "with a mask"]),
    cached=st.booleans(),
    attention=st.sampled_from(["sdpa", "eager"]),
)
def test_packed_rows_do_not_see_each_other(
    lengths: list[int], told: str, cached: bool, attention: str, fresh: Any
) -> None:
    model = fresh().eval()
    model.set_attn_implementation(attention)
    ids, positions, flash = packed(lengths)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": cached}
    if told != "lengths":
        inputs["position_ids"] = positions
    if told in ("lengths", "both"):
        inputs |= flash
    if told == "with a mask":
        inputs["attention_mask"] = torch.ones_like(ids)
    together = model(**inputs).logits[0]
    alone = torch.cat([model(piece).logits[0] for piece in ids.split(lengths, dim=1)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_packed_training_is_bit_equal_to_stock(stock: Any, ours: Any) -> None:
    theirs = stock().train()
    mine = ours(theirs).train()
    ids, positions, flash = packed([4, 1, 6])
    losses = []
    for model, extra in ((theirs, {}), (mine, flash)):
        loss = model(
            input_ids=ids, position_ids=positions, labels=ids, use_cache=False, **extra
        ).loss
        loss.backward()
        losses.append(loss.detach())
    assert torch.equal(*losses)
    for (name, a), (_, b) in zip(theirs.named_parameters(), mine.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_packed_auxiliary_losses_are_those_of_the_padded_batch(fresh: Any) -> None:
    model = fresh(num_nextn_predict_layers=2, balance_factor=0.5).train()
    lengths = [6, 4, 5]
    ids, positions, _ = packed(lengths)
    rows = ids.split(lengths, dim=1)
    batch = torch.zeros(3, 6, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for row, piece in enumerate(rows):
        batch[row, : piece.shape[1]], mask[row, : piece.shape[1]] = piece[0], 1
    labels = ids.clone()
    labels[0, [0, 6, 10]] = -100  # no sequence is asked for its neighbour's first token
    padded_labels = batch.masked_fill(mask == 0, -100)
    a = model(input_ids=ids, position_ids=positions, labels=labels)
    load = [router.load_E.clone() for router in model.model.routers]
    for router in model.model.routers:
        router.load_E = None
    b = model(input_ids=batch, attention_mask=mask, labels=padded_labels)
    assert a.aux_loss.item() == pytest.approx(b.aux_loss.item(), rel=1e-5)
    assert a.loss.item() == pytest.approx(b.loss.item(), rel=1e-5)
    for router, counted in zip(model.model.routers, load, strict=True):
        assert torch.equal(router.load_E, counted)
