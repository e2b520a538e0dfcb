"""Training is the same, bit for bit, whether rewards work ahead or not, whatever engine writes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from r1pipe.errors import StageFailed
from r1pipe.rewards.completions import checked_by
from r1pipe.stages import grpo
from tests.stages import tiny


@checked_by(None, looks_at="row")
def slow_digits(completions: list[str], log_metric: Any = None, **columns: Any) -> list[float]:
    """Waits as a sandbox would."""
    WHERE.append((threading.current_thread().name, len(completions)))
    time.sleep(0.015 * len(completions))
    if log_metric:
        log_metric("seen", float(len(completions)))
    return tiny.digits(completions)


@checked_by(None, looks_at="prompt")
def shortest(completions: list[str], prompts: list[str], **columns: Any) -> list[float | None]:
    """1 for the shortest completion of each prompt; not applicable to prompts that begin with 9."""
    least: dict[str, int] = {}
    for prompt, text in zip(prompts, completions, strict=True):
        least[prompt] = min(len(text), least.get(prompt, 1 << 30))
    pairs = zip(prompts, completions, strict=True)
    return [None if p.startswith("9") else float(len(t) == least[p]) for p, t in pairs]


WHERE: list[tuple[str, int]] = []


def train(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: str, overlap: bool | None, **trainer: Any
) -> tuple[list[dict[str, Any]], Any]:
    WHERE.clear()
    made: Any = lambda terms, render: ([slow_digits, shortest], [1.0, 0.5])  # noqa: E731
    monkeypatch.setattr(grpo, "build_rewards", made)
    monkeypatch.setattr(grpo, "preflight", lambda *args: None)
    monkeypatch.setattr(grpo, "load_data", lambda *args, **kwargs: tiny.rows(16))
    values = {
        "max_steps": 3,
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": 24,
        **trainer,
    }
    stage = tiny.grpo_stage(tiny.save_model(folder / "model"), engine, **values)
    rollout = stage.rollout.model_copy(update={"overlap_rewards": overlap})
    context = tiny.context(folder / "work", stage.model_copy(update={"rollout": rollout}))
    outcome = grpo.run(context)
    lines = (context.workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], outcome


@pytest.mark.parametrize("engine", ["compact", "transformers"])
def test_nothing_but_the_time_changes(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, calls = {}, {}
    for overlap in (False, True):
        rows, outcome = train(tmp_path / str(overlap), monkeypatch, engine, overlap)
        if engine == "compact":  # the other has nothing to do that could hide a reward
            assert ("hidden_reward_s" in outcome.timings) is overlap
            assert all(("hidden_reward_time" in row["timing"]) is overlap for row in rows)
        found[overlap] = [{k: v for k, v in row.items() if k != "timing"} for row in rows]
        calls[overlap] = list(WHERE)
    assert found[True] == found[False]
    assert all(row["seen"] == 16.0 for row in found[True])
    assert calls[False] == [("MainThread", 16)] * 3
    assert sum(count for _, count in calls[True]) == 48
    assert {name for name, _ in calls[True]} == {"rewards-ahead"}
    if engine == "compact":
        assert len(calls[True]) > 3  # some were rewarded while others were still being written


def test_without_a_wish_it_begins_where_the_first_batch_has_shown_a_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = train(tmp_path, monkeypatch, "compact", None)
    assert ["hidden_reward_time" in row["timing"] for row in rows] == [False, True, True]


def test_an_engine_that_fails_leaves_nothing_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r1pipe.rollout import compact

    plain, calls = compact.write, 0

    def write(*args: Any, on_rows: Any = None, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            on_rows([(0, [3, 1])])
            raise StageFailed("the engine was killed")
        return plain(*args, on_rows=on_rows, **options)

    monkeypatch.setattr(compact, "write", write)
    with pytest.raises(StageFailed, match="step 2: the engine was killed"):
        train(tmp_path, monkeypatch, "compact", True)


@pytest.mark.parametrize("engine", ["compact"])
def test_rewards_that_apply_to_nothing_are_counted_said_once_and_training_goes_on(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    @checked_by(None, looks_at="row")
    def nothing(completions: list[str], **columns: Any) -> list[None]:
        return [None] * len(completions)

    monkeypatch.setitem(globals(), "slow_digits", nothing)
    monkeypatch.setitem(globals(), "shortest", nothing)
    rows, outcome = train(tmp_path, monkeypatch, engine, True)
    assert outcome.metrics["steps"] == 3
    assert [row["rewards/unscored"] for row in rows] == [1.0] * 3
    assert all(row["loss"] is not None and row["reward"] is None for row in rows)
    assert capfd.readouterr().err.count("no reward applies to any completion") == 1
