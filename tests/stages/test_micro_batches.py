"""A batch under a budget of tokens, with padding or without, has the whole batch's gradient."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig

from r1pipe.errors import UserError
from r1pipe.stages import token_budget
from r1pipe.stages.grpo import R1GRPOTrainer
from r1pipe.stages.length_split import split
from r1pipe.stages.one_pass import ratio
from r1pipe.stages.packed import unsuited
from r1pipe.stages.token_budget import bins, rectangles
from tests.stages import tiny

LOSSES = ["grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"]
WIDTH, PROMPT, ROWS = 11, 5, 12


def trainer_of(folder: Path, model: Any = None, **options: Any) -> Any:
    given = {
        **{"use_cpu": True, "bf16": False, "report_to": "none", "beta": 0.1},
        **{"per_device_train_batch_size": ROWS, "num_generations": 4, "disable_dropout": True},
        **{"max_completion_length": WIDTH, "gradient_checkpointing": False},
        **options,
    }
    model = model or tiny.model()
    model.config._name_or_path = str(folder / "model")
    model.save_pretrained(folder / "model")
    rewards: Any = [tiny.digits]
    trainer = R1GRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=GRPOConfig(output_dir=str(folder), **given),
        train_dataset=tiny.rows(8),
        processing_class=tiny.tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def batch(seed: int = 0, empty: int = 0) -> dict[str, Any]:
    """A GRPO batch of rows of all lengths; the first `empty` completions bear no loss at all."""
    drawn = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, PROMPT + 1, (ROWS,), generator=drawn)
    lengths = torch.randint(1, WIDTH + 1, (ROWS,), generator=drawn)
    lengths[0], lengths[-1] = WIDTH, 1
    lengths[:empty] = 0
    left = (torch.arange(PROMPT) >= PROMPT - prompts[:, None]).long()
    right = (torch.arange(WIDTH) < lengths[:, None]).long()
    ids = torch.randint(3, 20, (ROWS, PROMPT + WIDTH), generator=drawn)
    old = -torch.rand((ROWS, WIDTH), generator=drawn) - 2.5
    return {
        "prompt_ids": ids[:, :PROMPT] * left,
        "prompt_mask": left,
        "completion_ids": ids[:, PROMPT:] * right,
        "completion_mask": right,
        "advantages": torch.randn(ROWS, generator=drawn),
        "old_per_token_logps": old * right,
        "ref_per_token_logps": (old - 0.3) * right,
        "num_items_in_batch": right.sum(),
    }


def gradient(trainer: Any, inputs: dict[str, Any], budget: int | None, packed: bool) -> Any:
    """Return loss, gradient of every parameter, and what was logged."""
    trainer.max_tokens_per_microbatch, trainer._budget = budget, None
    trainer.padding_free, trainer._packs = packed, None
    trainer._metrics["train"].clear()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    trainer.accelerator.backward(loss)
    logged = {name: list(values) for name, values in trainer._metrics["train"].items()}
    grads = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
    return float(loss.detach()), grads, logged


@pytest.mark.parametrize("loss_type", LOSSES)
def test_any_loss_has_the_whole_batchs_gradient(
    loss_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1pipe.stages.length_split.split", lambda inputs: None)
    trainer = trainer_of(tmp_path, loss_type=loss_type)
    inputs = batch(empty=2)
    loss, expected, logged = gradient(trainer, inputs, None, packed=False)
    assert sum(float(grad.abs().sum()) for grad in expected) > 0
    for budget, packed in [(40, False), (1, False), (None, True), (40, True), (1, True)]:
        found, grads, logged_now = gradient(trainer, inputs, budget, packed)
        assert trainer.packs() is packed
        assert found == pytest.approx(loss, abs=1e-6)
        for mine, whole in zip(grads, expected, strict=True):
            torch.testing.assert_close(mine, whole, atol=1e-6, rtol=1e-5)
        assert logged_now.keys() == logged.keys()
        for name, values in logged.items():
            assert len(values) == len(logged_now[name]) == 1
            assert logged_now[name] == pytest.approx(values, rel=1e-3, abs=1e-5, nan_ok=True), name


def test_sequence_level_ratios_and_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1pipe.stages.length_split.split", lambda inputs: None)
    from peft import LoraConfig, get_peft_model

    model = tiny.model()
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    trainer = trainer_of(
        tmp_path, adapted, loss_type="grpo", importance_sampling_level="sequence", beta=0.0
    )
    inputs = batch()
    loss, expected, logged = gradient(trainer, inputs, None, packed=False)
    found, grads, logged_now = gradient(trainer, inputs, 40, packed=True)
    assert trainer.packs() and found == pytest.approx(loss, abs=1e-6)
    for name, values in logged.items():
        assert logged_now[name] == pytest.approx(values, rel=1e-3, abs=1e-5), name
    for mine, whole in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_scoring_in_parts_gives_the_rows_back_in_order(packed: bool, tmp_path: Path) -> None:
    trainer, inputs = trainer_of(tmp_path), batch()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    with torch.no_grad():
        trainer.max_tokens_per_microbatch, trainer._budget = None, None
        whole, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, WIDTH, compute_entropy=True
        )
        trainer.max_tokens_per_microbatch, trainer._budget = 8, None
        trainer.padding_free, trainer._packs = packed, None
        parts, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, WIDTH)
    scored = inputs["completion_mask"].bool()
    torch.testing.assert_close(parts[scored], whole[scored], atol=1e-6, rtol=1e-5)


def test_a_batch_within_the_budget_is_scored_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1pipe.stages.length_split.split", lambda inputs: None)
    trainer, inputs = trainer_of(tmp_path), batch()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    rows: list[int] = []
    trainer.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    for budget, expected in [(None, [4, 4, 4]), (ROWS * (PROMPT + WIDTH), [ROWS])]:
        rows.clear()
        trainer.max_tokens_per_microbatch, trainer._budget = budget, None
        trainer.padding_free, trainer._packs = False, None
        with torch.no_grad():
            trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, WIDTH, 4)
        assert rows == expected


def test_experts_and_their_own_attention_keep_padding(tmp_path: Path) -> None:
    model = tiny.mixture(mtp_loss_weight=0.0, num_nextn_predict_layers=0)
    assert unsuited(model) and not unsuited(tiny.model())
    trainer = trainer_of(tmp_path, model, beta=0.0)
    trainer.padding_free = True
    assert not trainer.packs()


def test_a_part_without_loss_changes_nothing() -> None:
    inputs = batch(empty=4)
    parts = split(inputs) or [inputs]
    assert sum(len(part["advantages"]) for part in parts) == ROWS


lengths_strategy = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(lengths_strategy, st.integers(1, 200), st.integers(1, 6))
def test_every_row_is_in_one_part_within_the_budget(
    lengths: list[int], budget: int, at_least: int
) -> None:
    at_least = min(at_least, len(lengths))
    for cut_into in (bins, rectangles):
        parts = cut_into(lengths, budget, at_least)
        assert sorted(row for rows in parts for row in rows) == list(range(len(lengths)))
        assert all(parts) and len(parts) >= at_least
        for rows in parts:
            own = [lengths[row] for row in rows]
            used = sum(own) if cut_into is bins else len(own) * max(own)
            assert used <= budget or len(rows) == 1


def test_out_of_memory_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(tmp_path)
    trainer.max_tokens_per_microbatch = 40

    def fails(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(trainer, "_compute_loss", fails)
    monkeypatch.setattr(trainer, "_prepare_inputs", lambda inputs: inputs)
    trainer.create_optimizer()
    with pytest.raises(UserError, match=r"(?s)max_tokens_per_microbatch.*lower it to"):
        trainer.training_step(trainer.model, batch(), None)


@pytest.mark.parametrize(
    "mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
@pytest.mark.parametrize("low", [None, 0.8])
def test_ratios_are_those_of_trl(mode: str, low: float | None) -> None:
    """TRL's own lines, written out for one row of three tokens."""
    args = GRPOConfig(
        **{"output_dir": "x", "use_cpu": True, "bf16": False},
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=1.2,
    )
    old = torch.tensor([[-1.0, -2.0, -3.0]])
    sampled = torch.tensor([[-1.5, -1.0, float("nan")]])
    mask = torch.tensor([[1, 1, 1]])
    apart = torch.tensor([[0.5, -1.0, 0.0]])
    apart = apart.sum(-1, keepdim=True) if mode.startswith("sequence") else apart
    expected = []
    for value in apart.exp().flatten().tolist():
        if mode.endswith("truncate"):
            expected.append(min(max(value, low or 0.0), 1.2))
        else:
            expected.append(value if (low or 0.0) <= value <= 1.2 else 0.0)
    assert ratio(old, sampled, mask, args).flatten().tolist() == pytest.approx(expected)


def test_a_budget_is_measured_only_where_there_is_a_gpu() -> None:
    cpu = torch.device("cpu")
    assert token_budget.TokenBudget("auto", cpu).tokens is None
    assert token_budget.TokenBudget(None, cpu).tokens is None
    assert token_budget.TokenBudget(512, cpu).tokens == 512


@pytest.mark.parametrize("mode", ["sequence_mask", "token_truncate"])
def test_the_correction_needs_no_pass_of_its_own(mode: str, tmp_path: Path) -> None:
    """The same gradient and the same log as TRL's with its scoring pass, undivided or in parts."""
    trainer = trainer_of(tmp_path, loss_type="grpo", beta=0.0, vllm_importance_sampling_mode=mode)
    trainer.use_vllm = True
    drawn = torch.Generator().manual_seed(1)

    def write(prompts: list[Any], _: Any) -> dict[str, Any]:
        ids = [[5 + row % 3] * (1 + row % WIDTH) for row in range(len(prompts))]
        values = [(-3 * torch.rand(len(each), generator=drawn)).tolist() for each in ids]
        return {"prompt_ids": [[4, 5]] * len(ids), "completion_ids": ids, "logprobs": values}

    trainer.rollout_func = write
    trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None)
    trainer._last_loaded_step = 0
    rows = [row for row in trainer.train_dataset.select(range(3)) for _ in range(4)]
    found = []
    for alone, budget in [(True, None), (False, None), (False, 30)]:
        drawn.manual_seed(1)
        trainer._metrics["train"].clear()
        trainer._scores_itself = (
            (lambda: False) if alone else partial(type(trainer)._scores_itself, trainer)
        )
        inputs = trainer._generate_and_score_completions(rows)
        assert ("old_per_token_logps" in inputs) is alone
        before = {name: list(values) for name, values in trainer._metrics["train"].items()}
        loss, grads, logged = gradient(trainer, inputs, budget, packed=False)
        assert trainer.vllm_importance_sampling_correction
        found.append((loss, grads, before | logged))
    for loss, grads, logged in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-6)
        for mine, whole in zip(grads, found[0][1], strict=True):
            torch.testing.assert_close(mine, whole, atol=1e-6, rtol=1e-5)
        assert logged.keys() == found[0][2].keys()
        for name in logged:
            if name.startswith("sampling/") and not name.endswith("ratio/mean"):
                assert logged[name] == pytest.approx(found[0][2][name], rel=1e-4), name
