"""GRPO on partial rollouts: whole groups, tokens weighed by who drew them, continued exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from r1pipe.rollout.agreement import token_logprobs
from r1pipe.schema import PartialRollouts
from r1pipe.stages import grpo, partial_rollouts
from tests.stages import tiny


def stage_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    made: Any = lambda terms, render: ([tiny.digits], [1.0])  # noqa: E731
    monkeypatch.setattr(grpo, "build_rewards", made)
    monkeypatch.setattr(grpo, "preflight", lambda *args: None)
    monkeypatch.setattr(grpo, "load_data", lambda *args, **kwargs: tiny.rows(16))
    trainer = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "num_generations": 2,
        "max_completion_length": 100,
        "beta": 0.0,
        "temperature": 4.0,  # ends are drawn often then, at any length
        **changes.pop("trainer", {}),
    }
    engine = changes.pop("engine", "compact")
    stage = tiny.grpo_stage(tiny.save_model(folder / "model"), engine, **trainer)
    asked = PartialRollouts(enabled=True, ahead=1.0, max_staleness=2)
    return stage.model_copy(update={"partial_rollouts": asked, **changes})


def rows_of(context: Any) -> list[dict[str, Any]]:
    lines = (context.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "timing"} for row in rows]


def test_parts_carry_the_log_probabilities_of_the_policies_that_drew_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rescored by the policy of every step: each token's figure is that of one step, in order."""
    context = tiny.context(tmp_path / "work", stage_of(tmp_path, monkeypatch))
    plain = partial_rollouts.PartialGroups._whole_groups
    policies: list[Any] = []
    continued = 0

    def watched(self: Any, partial: Any) -> Any:
        nonlocal continued
        copy = tiny.model()
        copy.load_state_dict(self.accelerator.unwrap_model(self.model).state_dict())
        policies.append(copy.eval())
        groups = plain(self, partial)
        for group in groups:
            for row in group.rows:
                scored = [
                    token_logprobs(policy, [group.prompt_ids], [row.ids], self.temperature)[0]
                    for policy in policies
                ]
                drawn, at = torch.tensor(row.logprobs), group.born
                while len(drawn):  # the longest stretch by one policy, then by a later one
                    spots = len(row.ids) - len(drawn)
                    close = torch.isclose(
                        torch.tensor(scored[at][spots:]), drawn, rtol=0, atol=1e-4
                    )
                    stretch = int(close.long().cumprod(0).sum())
                    drawn = drawn[stretch:]
                    at += 1
                    assert at < len(policies) or not len(drawn)
                continued += row.parts > 1
        return groups

    monkeypatch.setattr(partial_rollouts.PartialGroups, "_whole_groups", watched)
    grpo.run(context)
    rows = rows_of(context)
    assert continued > 0 and any(row["partial/continued"] > 0 for row in rows)
    assert all(row["partial/max_staleness"] <= 2 for row in rows)
    assert rows[0]["mismatch/ess"] == pytest.approx(1.0, abs=1e-4)
    assert min(row["mismatch/ess"] for row in rows) < 0.9999
    assert len(rows) == 6


def test_a_run_that_goes_on_from_a_checkpoint_is_the_run_without_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, first in (("whole", 6), ("halves", 3)):
        stage = stage_of(tmp_path / name, monkeypatch, trainer={"save_steps": 3})
        context = tiny.context(tmp_path / name / "work", stage)
        if first < 6:
            stop_after(first, monkeypatch)
            with pytest.raises(KeyboardInterrupt):
                grpo.run(context)
            monkeypatch.undo()
            stage_of(tmp_path / name, monkeypatch)
        grpo.run(context)
        found.append(rows_of(context))
    assert found[0] == found[1]


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = partial_rollouts.PartialGroups._whole_groups

    def interrupted(self: Any, partial: Any) -> Any:
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return plain(self, partial)

    monkeypatch.setattr(partial_rollouts.PartialGroups, "_whole_groups", interrupted)


def test_groups_may_straddle_the_batches_of_a_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = {"per_device_train_batch_size": 3, "steps_per_generation": 2, "max_steps": 1}
    stage = stage_of(tmp_path, monkeypatch, trainer=trainer)  # 6 completions are three groups
    context = tiny.context(tmp_path / "work", stage)
    grpo.run(context)
    assert [row["step"] for row in rows_of(context)] == [1]
