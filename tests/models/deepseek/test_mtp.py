"""Multi-token prediction: the loss is the report's, and every weight learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers.modeling_layers import MtpModel


def naive_mtp_loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Equations 21 to 25 for rows without padding, each module on its own shorter sequence."""
    backbone, depths = model.model, model.model.mtp_layers
    hidden = backbone(ids).last_hidden_state
    total = torch.zeros(())
    for k, layer in enumerate(depths, start=1):
        hidden = hidden[:, : ids.shape[1] - k]
        positions = torch.arange(hidden.shape[1])[None]
        hidden = layer(
            hidden,
            next_embeds=backbone.embed_tokens(ids[:, k:]),
            attention_mask=torch.ones(1, 1, hidden.shape[1], hidden.shape[1]).tril().bool(),
            position_embeddings=backbone.rotary_emb(hidden, position_ids=positions),
        )
        logits = model.lm_head(hidden)[:, :-1]
        total = total + F.cross_entropy(logits.flatten(0, 1), ids[:, k + 1 :].flatten())
    return total / len(depths)


@pytest.mark.parametrize("depth", [1, 2])
def test_loss_and_gradients_are_the_reports(depth: int, fresh: Any) -> None:
    model = fresh(num_nextn_predict_layers=depth, mtp_loss_weight=0.3, balance_factor=0.0).train()
    ids = torch.randint(1, 61, (2, 9))
    expected = naive_mtp_loss(model, ids)
    out = model(ids, labels=ids)
    assert model.auxiliary_losses["mtp_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert out.aux_loss.item() == pytest.approx(0.3 * expected.item(), rel=1e-5)
    main = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert out.loss.item() == pytest.approx((main + 0.3 * expected).item(), rel=1e-5)
    (0.3 * expected).backward()
    wanted = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model(ids, labels=ids).aux_loss.backward()
    for name, parameter in model.named_parameters():
        if name in wanted:
            assert torch.allclose(parameter.grad, wanted[name], atol=1e-5), name
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(wanted)


def test_gradient_is_the_finite_difference(fresh: Any) -> None:
    # Without experts: a token that changes its expert is a jump, which has no slope.
    model = fresh(num_nextn_predict_layers=1, first_k_dense_replace=4).train()
    ids = torch.randint(1, 61, (2, 9))
    weight = model.model.mtp_layers[0].eh_proj.weight
    model(ids, labels=ids).aux_loss.backward()
    direction, step = weight.grad / weight.grad.norm(), 1e-2
    slope = weight.grad.norm().item()
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight.add_(sign * step * direction)
            with torch.enable_grad():
                values.append(model(ids, labels=ids).aux_loss.item())
            weight.sub_(sign * step * direction)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-2)


def test_no_weight_no_modules_no_loss(fresh: Any) -> None:
    ids = torch.randint(1, 61, (2, 9))
    for changes in ({"num_nextn_predict_layers": 0}, {"mtp_loss_weight": 0.0}):
        changes = {"num_nextn_predict_layers": 1, **changes}
        model = fresh(**changes, balance_factor=0.0).train()
        out = model(ids, labels=ids)
        assert out.aux_loss.item() == 0 and "mtp_loss" not in model.auxiliary_losses


def test_ignored_and_padded_targets_do_not_count(fresh: Any) -> None:
    model = fresh(num_nextn_predict_layers=1, balance_factor=0.0).train()
    ids = torch.randint(1, 61, (1, 9))
    model(ids, labels=ids)
    alone = model.auxiliary_losses["mtp_loss"].item()
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    mask = (torch.arange(13) < 9).long()[None]
    model(padded, attention_mask=mask, labels=padded)
    assert model.auxiliary_losses["mtp_loss"].item() == pytest.approx(alone, rel=1e-5)
    nothing = torch.full_like(ids, -100)
    model(ids, labels=nothing)
    assert model.auxiliary_losses["mtp_loss"].item() == 0


def test_module_computes_what_stock_drafts_with(stock: Any, fresh: Any) -> None:
    """transformers' own MTP model, given our weights, gives our logits."""
    mine = fresh(num_nextn_predict_layers=1).eval()
    theirs = stock()
    theirs.load_state_dict(
        {n: t for n, t in mine.state_dict().items() if not n.startswith("model.layers.3.")}
    )
    theirs.config.num_nextn_predict_layers = 1
    drafter = MtpModel(theirs, 1).eval()
    layer, draft = mine.model.mtp_layers[0], drafter.layers[0]
    for name in ("enorm", "hnorm", "eh_proj"):
        getattr(draft, name).load_state_dict(getattr(layer, name).state_dict())
    draft.post_norm.load_state_dict(layer.shared_head.norm.state_dict())
    block = {
        n: t
        for n, t in layer.state_dict().items()
        if not n.startswith(("enorm", "hnorm", "eh_proj", "shared_head"))
    }
    draft.mtp_block.load_state_dict(block)
    ids = torch.randint(1, 61, (1, 7))
    embeds = mine.model.embed_tokens(ids)
    hidden = torch.randn(1, 7, 32)
    positions = torch.arange(7)[None]
    cos_sin = mine.model.rotary_emb(embeds, position_ids=positions)
    expected = draft(embeds, hidden, cos_sin, None, positions, None)
    got = layer(hidden, next_embeds=embeds, position_embeddings=cos_sin)
    assert torch.equal(got, expected)
