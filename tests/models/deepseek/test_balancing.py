"""Biases move as the report says, the balance loss is its formula, training balances experts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from r1pipe.errors import UserError
from r1pipe.models.deepseek import ExpertBalancing, update_biases
from r1pipe.models.deepseek.balancing import balance_loss, expert_load, load_metrics


def naive_balance_loss(logits: list[list[float]], segments: list[int], top_k: int) -> float:
    """Equations 17 to 20, one sum after the other."""
    sequences = sorted({s for s in segments if s >= 0})
    total = 0.0
    for sequence in sequences:
        rows = [row for row, s in zip(logits, segments, strict=True) if s == sequence]
        scores = [[1 / (1 + math.exp(-x)) for x in row] for row in rows]
        n, t = len(rows[0]), len(rows)
        for i in range(n):
            chosen = sum(
                i in sorted(range(n), key=lambda j, r=row: -r[j])[:top_k] for row in scores
            )
            f = n / (top_k * t) * chosen
            p = sum(row[i] / sum(row) for row in scores) / t
            total += f * p
    return total / len(sequences)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    segments=st.lists(st.sampled_from([-1, 0, 1, 4]), min_size=1, max_size=9),
    top_k=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_balance_loss_is_the_formula(segments: list[int], top_k: int, seed: int) -> None:
    if max(segments) < 0:
        segments[0] = 0
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(segments), 5, generator=generator, dtype=torch.float64)
    loss = balance_loss(logits, torch.tensor(segments), top_k)
    assert loss.item() == pytest.approx(naive_balance_loss(logits.tolist(), segments, top_k))


def test_balance_loss_gradient_is_the_finite_difference() -> None:
    logits = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor([0, 0, 0, 1, 1, -1, 1])
    assert torch.autograd.gradcheck(lambda x: balance_loss(x, segments, 2), logits)


def test_gradient_of_a_model_is_the_finite_difference(fresh: Any) -> None:
    """Over the last router, on whose scores no later choice depends."""
    model = fresh(balance_factor=1.0).train()
    ids = torch.randint(1, 61, (3, 11))
    weight = model.model.routers[-1].weight
    model(ids, labels=ids).aux_loss.backward()
    direction, slope = weight.grad / weight.grad.norm(), float(weight.grad.norm())
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight.add_(sign * 2e-4 * direction)  # farther, and some token's own top K changes
            with torch.enable_grad():
                values.append(float(model(ids, labels=ids).aux_loss.detach()))
            weight.sub_(sign * 2e-4 * direction)
    assert slope > 1e-3
    assert (values[0] - values[1]) / 4e-4 == pytest.approx(slope, rel=2e-2)


def test_balanced_scores_give_one_and_padding_alone_zero() -> None:
    even = torch.eye(6).repeat(2, 1) * 1e-6
    assert balance_loss(even, torch.zeros(12, dtype=torch.long), 1).item() == pytest.approx(1)
    nothing = balance_loss(even, torch.full((12,), -1), 1)
    assert nothing.item() == 0


def test_loss_is_added_in_training_and_returned(fresh: Any) -> None:
    ids = torch.randint(1, 61, (2, 8))
    plain = fresh(balance_factor=0.0).train()
    model = fresh(balance_factor=0.5).train()
    out = model(ids, labels=ids)
    seen = model.auxiliary_losses["balance_loss"]
    assert out.loss.item() == pytest.approx((plain(ids, labels=ids).loss + seen).item())
    assert out.aux_loss.item() == pytest.approx(seen.item())
    with torch.no_grad():
        assert torch.equal(model(ids, labels=ids).loss, plain(ids, labels=ids).loss)
    assert torch.equal(model.eval()(ids, labels=ids).loss, plain.eval()(ids, labels=ids).loss)


def test_only_routed_tokens_of_training_are_counted(fresh: Any) -> None:
    model = fresh()
    ids, mask = torch.randint(1, 61, (2, 8)), torch.ones(2, 8, dtype=torch.long)
    mask[0, :5] = 0
    model.eval()(ids, labels=ids)
    with torch.no_grad():
        model.train()(ids, labels=ids)
    assert all(router.load_E is None for router in model.model.routers)
    model(ids, attention_mask=mask, labels=ids)
    model.model(ids, attention_mask=mask)  # nobody asks for a loss
    model(ids, attention_mask=mask)
    for router in model.model.routers:
        assert router.load_E.sum() == 11 * model.config.num_experts_per_tok


def test_load_ignores_padding() -> None:
    experts = torch.tensor([[[0, 1], [1, 2], [3, 0]], [[4, 0], [0, 1], [4, 3]]])
    load = expert_load(experts, torch.tensor([0, -1, 2]), 5)
    assert load.tolist() == [[2, 1, 0, 1, 0], [1, 0, 0, 1, 2]]


def test_the_loss_of_several_layers_is_the_sum_of_theirs() -> None:
    logits = torch.randn(3, 7, 6, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor([0, 0, 2, 2, 2, -1, 2])
    whole = balance_loss(logits, segments, 2)
    apart = sum(balance_loss(layer, segments, 2, 3) for layer in logits)
    torch.testing.assert_close(whole, apart)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (whole, apart)]
    torch.testing.assert_close(*grads)


def test_metrics() -> None:
    metrics = load_metrics(torch.tensor([[2.0, 2, 2, 2], [8.0, 0, 0, 0], [0.0, 0, 0, 0]]))
    assert metrics == {
        "experts/max_violation": 1.5,
        "experts/max_violation_worst_layer": 3.0,
        "experts/dead": 3.0,
    }
    assert load_metrics(torch.zeros(2, 4)) == {}


def rows(count: int, length: int = 10) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, 61, (count, length), generator=generator).tolist()
    return [{"input_ids": row, "labels": row} for row in ids]


def trained(
    model: Any,
    folder: Path,
    callback: ExpertBalancing,
    resume: str | None = None,
    **options: Any,
) -> Trainer:
    defaults: dict[str, Any] = {"report_to": [], "use_cpu": True, "disable_tqdm": True}
    defaults |= {"per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no"}
    arguments = TrainingArguments(str(folder), **{**defaults, **options})
    trainer = Trainer(model, arguments, train_dataset=rows(32), callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class Watching(ExpertBalancing):
    """Keeps every router's load before it is used up, and the biases after."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.steps: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []

    def on_pre_optimizer_step(self, *args: Any, model: Any = None, **kwargs: Any) -> None:
        loads = [router.load_E.clone() for router in model.model.routers]
        super().on_pre_optimizer_step(*args, model=model, **kwargs)
        biases = [router.e_score_correction_bias.clone() for router in model.model.routers]
        self.steps.append((loads, biases))


def test_bias_moves_by_the_formula_under_accumulation(fresh: Any, tmp_path: Path) -> None:
    model = fresh(bias_update_speed=0.25)
    before = [router.e_score_correction_bias.clone() for router in model.model.routers]
    watching = Watching()
    trainer = trained(model, tmp_path, watching, max_steps=3, gradient_accumulation_steps=2)
    assert len(watching.steps) == 3
    for loads, biases in watching.steps:
        for start, load, bias in zip(before, loads, biases, strict=True):
            assert load.sum() == 2 * 2 * 10 * model.config.num_experts_per_tok
            assert torch.equal(bias, start + 0.25 * torch.sign(load.mean() - load))
        before = biases
    assert "experts/max_violation" in trainer.state.log_history[0]
    assert "balance_loss" in trainer.state.log_history[0]


def test_losses_are_logged_as_means_of_the_window(fresh: Any, tmp_path: Path) -> None:
    """Two log windows of two steps of two micro-batches each; a checkpoint between two logs."""
    seen: list[dict[str, float]] = []

    class Noting(ExpertBalancing):
        def _note_losses(self, model: Any) -> None:
            seen.append({n: float(v) for n, v in model.auxiliary_losses.items()})
            super()._note_losses(model)

    model = fresh(num_nextn_predict_layers=1, balance_factor=0.5)
    options: dict[str, Any] = {"max_steps": 4, "logging_steps": 2, "gradient_accumulation_steps": 2}
    trainer = trained(model, tmp_path, Noting(), **options)
    windows = [row for row in trainer.state.log_history if "balance_loss" in row]
    assert len(seen) == 8 and [row["step"] for row in windows] == [2, 4]
    for number, row in enumerate(windows):
        part = seen[4 * number : 4 * number + 4]
        for name in ("balance_loss", "mtp_loss"):
            mean = sum(values[name] for values in part) / 4
            assert row[name] == pytest.approx(mean, rel=1e-5), name
            assert row[name] != pytest.approx(part[-1][name], rel=1e-5)
        # Rows are as long as each other: the load is of every token and of those with a next one.
        assert row["experts/max_violation"] > 0


def test_what_was_not_logged_is_kept(fresh: Any) -> None:
    model = fresh(balance_factor=0.5).train()
    ids = torch.randint(1, 61, (2, 8))
    first, second, state = (
        ExpertBalancing(),
        ExpertBalancing(),
        SimpleNamespace(global_step=0, log_history=[]),
    )
    assert first.unlogged is None
    model(ids, labels=ids)
    first.on_pre_optimizer_step(None, state, None, model=model)
    second.unlogged = json.loads(json.dumps(first.unlogged))
    logs: list[dict[str, float]] = [{}, {}]
    for callback, entry in zip((first, second), logs, strict=True):
        callback.on_log(None, state, None, logs=entry, model=model)
        assert callback.unlogged is None
    assert logs[0] == logs[1] and logs[0]["balance_loss"] > 0


@pytest.mark.parametrize("first", [2, 0.5], ids=["a step", "a share of the steps"])
def test_frozen_biases_stay(first: float, fresh: Any, tmp_path: Path) -> None:
    watching = Watching(speed=0.25, freeze_from_step=first)
    trained(fresh(), tmp_path, watching, max_steps=4)
    biases = [biases for _, biases in watching.steps]
    assert not torch.equal(biases[0][0], biases[1][0])
    for later in biases[2:]:
        assert all(torch.equal(a, b) for a, b in zip(later, biases[1], strict=True))
    model = fresh(bias_update_speed=0.0)
    before = [router.e_score_correction_bias.clone() for router in model.model.routers]
    trained(model, tmp_path, ExpertBalancing(), max_steps=2)
    for router, bias in zip(model.model.routers, before, strict=True):
        assert torch.equal(router.e_score_correction_bias, bias)


def test_load_is_summed_over_ranks(fresh: Any) -> None:
    model = fresh().train()
    ids = torch.randint(1, 61, (2, 8))
    model(ids, labels=ids)
    mine = torch.stack([router.load_E for router in model.model.routers])
    other = torch.full_like(mine, 3.0)
    before = torch.stack([r.e_score_correction_bias for r in model.model.routers])
    total = update_biases(model, 0.125, reduce=lambda load: load + other)
    assert torch.equal(total, mine + other)
    after = torch.stack([r.e_score_correction_bias for r in model.model.routers])
    sign = torch.sign(total.mean(dim=1, keepdim=True) - total)
    assert torch.equal(after, before + 0.125 * sign)
    assert all(router.load_E is None for router in model.model.routers)


def test_continued_run_has_the_same_bias(fresh: Any, tmp_path: Path) -> None:
    model = fresh(bias_update_speed=0.25)
    whole = Watching()
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trained(model, tmp_path / "whole", whole, **options)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-2")
    for router, bias in zip(again.model.routers, whole.steps[1][1], strict=True):
        assert torch.equal(router.e_score_correction_bias, bias)
    rest = Watching()
    resumed = fresh(bias_update_speed=0.25)
    checkpoint = str(tmp_path / "whole" / "checkpoint-2")
    trained(resumed, tmp_path / "rest", rest, resume=checkpoint, **options)
    assert len(rest.steps) == 2
    for (loads, biases), (load, bias) in zip(whole.steps[2:], rest.steps, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(loads, load, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(biases, bias, strict=True))


def zipf(generator: torch.Generator) -> torch.Tensor:
    """Tokens of Zipf's law: the commonest is a quarter of the text."""
    shares = torch.arange(1, 61).float() ** -1.25
    return 1 + torch.multinomial(shares, 6 * 32, replacement=True, generator=generator).view(6, 32)


def one_token(generator: torch.Generator) -> torch.Tensor:
    """Half of the text is one token."""
    ids = torch.randint(1, 61, (6, 32), generator=generator)
    return ids.masked_fill(torch.rand(6, 32, generator=generator) < 0.5, 7)


def topics(generator: torch.Generator) -> torch.Tensor:
    """Rows are of three topics with tokens of their own; four fifths of the rows are of one."""
    shares = torch.tensor([0.8, 0.15, 0.05])
    topic = torch.multinomial(shares, 6, replacement=True, generator=generator)
    return 1 + 20 * topic[:, None] + torch.randint(0, 20, (6, 32), generator=generator)


FEW = {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
GROUPS = {"n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2}


@pytest.mark.parametrize(
    ("corpus", "shape", "seed"),
    [(zipf, FEW, 0), (one_token, GROUPS, 1), (topics, FEW, 2)],
    ids=["zipf", "one token, in groups", "topics"],
)
def test_skewed_text_is_balanced_by_the_bias_alone(
    corpus: Any, shape: dict[str, Any], seed: int, fresh: Any
) -> None:
    """Trained without it, experts that are ahead get nearly all of the text.

    Over a window of steps, as the trainer logs it: every step moves the biases on, so that a single
    small batch leans one way or the other. Rows are padded, and the MTP module's router counts too.
    """
    for speed in (0.0, 0.01):
        generator = torch.Generator().manual_seed(seed)
        model = fresh(
            **shape, num_hidden_layers=2, num_nextn_predict_layers=1, balance_factor=0.0
        ).train()
        for router in model.model.routers:
            router.e_score_correction_bias.zero_()
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4)
        loads = []
        for _ in range(140):
            ids = corpus(generator)
            mask = torch.arange(32) >= torch.randint(0, 17, (6, 1), generator=generator)
            labels = ids.masked_fill(~mask, -100)
            model(ids * mask, attention_mask=mask.long(), labels=labels).loss.backward()
            loads.append(update_biases(model, speed))
            optimizer.step()
            optimizer.zero_grad()
        last = torch.stack(loads[-35:]).sum(dim=0)
        ratios = last.amax(dim=1) / last.mean(dim=1)
        assert len(ratios) == 2
        assert float(ratios.min()) >= 2 if speed == 0 else float(ratios.max()) <= 1.2, ratios


@pytest.mark.parametrize("loss", [{"balance_factor": 0.1}, {"num_nextn_predict_layers": 1}])
def test_reentrant_checkpointing_is_refused(loss: Any, fresh: Any) -> None:
    model = fresh(**{"balance_factor": 0.0, **loss}).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    ids = torch.randint(1, 61, (2, 8))
    with pytest.raises(UserError, match="re-entrant"):
        model(ids, labels=ids)


def test_bias_that_is_not_float32_is_refused(fresh: Any) -> None:
    model = fresh()
    router = model.model.routers[0]
    router.e_score_correction_bias = router.e_score_correction_bias.bfloat16()
    with pytest.raises(TypeError, match="bfloat16"):
        update_biases(model, 0.001)


def test_routing_is_float32_under_autocast(fresh: Any) -> None:
    model = fresh().train()
    ids = torch.randint(1, 61, (2, 8))
    with torch.autocast("cpu", torch.bfloat16):
        model.model(ids)
    assert {choice.logits_TE.dtype for choice, _ in model.model.trace.choices} == {torch.float32}


def test_micro_batches_weigh_by_their_labels(fresh: Any) -> None:
    """As transformers' trainer does it: summed over labels, divided by those of all batches."""
    model = fresh(num_nextn_predict_layers=1, balance_factor=0.5).train()
    rows = torch.randint(1, 61, (2, 8))
    labels = rows.clone()
    labels[0, :6] = -100
    items = int((labels[:, 1:] != -100).sum())
    parts = [model(r[None], labels=x[None]) for r, x in zip(rows, labels, strict=True)]
    plain = [(p.loss - p.aux_loss, p.aux_loss) for p in parts]
    shares = [2 / items, 7 / items]
    expected = sum(s * (loss + aux) for s, (loss, aux) in zip(shares, plain, strict=True))
    summed = sum(
        model(r[None], labels=x[None], num_items_in_batch=items).loss
        for r, x in zip(rows, labels, strict=True)
    )
    assert summed.item() == pytest.approx(expected.item(), rel=1e-5)
