"""Every shape, rotary embedding and layout of a batch: the numbers of stock transformers."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models.deepseek.test_equality import assert_same_training, shapes

LAYOUTS = ("plain", "left", "right", "left, no positions", "packed", "packed, by lengths")
LENGTHS = (5, 2, 1, 7)
"""Tokens of the rows, or of the sequences in one packed row."""
wild = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def ropes(draw: st.DrawFn) -> dict[str, Any]:
    """Rotary embeddings of published checkpoints and then some; eight features turn."""
    kind = draw(st.sampled_from(["default", "yarn", "yarn", "linear", "dynamic", "llama3"]))
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": draw(st.sampled_from([1e4, 5e5]))}
    if kind == "default":
        return rope
    rope["factor"] = draw(st.sampled_from([2.0, 40.0]))
    if kind == "yarn":
        rope |= {"beta_fast": draw(st.sampled_from([4, 32])), "beta_slow": 1}
        rope["original_max_position_embeddings"] = 32
        scales = st.sampled_from([None, 0.0, 0.707, 1.0])
        for name in ("mscale", "mscale_all_dim"):
            if (scale := draw(scales)) is not None:
                rope[name] = scale
        if draw(st.booleans()):
            rope["truncate"] = False
        if draw(st.booleans()):
            rope["attention_factor"] = 1.25
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope["original_max_position_embeddings"] = 32
    return rope


def batch(layout: str, seed: int) -> tuple[dict[str, Any], dict[str, Any], torch.Tensor]:
    """Return the inputs of stock transformers, those of ours, and which tokens are real."""
    generator = torch.Generator().manual_seed(seed)
    if layout.startswith("packed"):
        ids = torch.randint(1, 61, (1, sum(LENGTHS)), generator=generator)
        positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
        inputs = {"input_ids": ids, "labels": ids, "use_cache": False}
        ends = torch.tensor([0, *LENGTHS]).cumsum(0).int()
        lengths = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
        lengths |= dict.fromkeys(("max_length_q", "max_length_k"), max(LENGTHS))
        told = lengths if layout == "packed, by lengths" else {"position_ids": positions}
        return {**inputs, "position_ids": positions}, {**inputs, **told}, torch.ones_like(ids) > 0
    width = max(LENGTHS)
    ids = torch.randint(1, 61, (len(LENGTHS), width), generator=generator)
    if layout == "plain":
        inputs = {"input_ids": ids, "labels": ids}
        return inputs, inputs, torch.ones_like(ids) > 0
    mask = torch.arange(width)[None] < torch.tensor(LENGTHS)[:, None]
    mask = mask if layout == "right" else mask.flip(1)
    inputs = {"input_ids": ids * mask, "attention_mask": mask.long()}
    inputs["labels"] = ids.masked_fill(~mask, -100)
    if layout == "left":
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return inputs, inputs, mask


@wild
@given(
    shape=shapes(),
    rope=ropes(),
    layout=st.sampled_from(LAYOUTS),
    attention=st.sampled_from(["sdpa", "sdpa", "eager"]),
    experts=st.sampled_from(["grouped_mm", "eager"]),
    seed=st.integers(0, 99),
)
def test_logits_loss_and_gradients_are_bit_equal(
    shape: dict[str, Any],
    rope: dict[str, Any],
    layout: str,
    attention: str,
    experts: str,
    seed: int,
    stock: Any,
    ours: Any,
) -> None:
    theirs = stock(**shape, rope_parameters=rope)
    mine = ours(theirs)
    for model in (theirs, mine):
        model.set_attn_implementation(attention)
        model.set_experts_implementation(experts)
    expected, inputs, real = batch(layout, seed)
    with torch.no_grad():
        assert torch.equal(mine(**inputs).logits[real], theirs(**expected).logits[real])
    assert_same_training(theirs, mine, expected, inputs)
