"""Seconds are counted once, for the phase that ran, and reach the metrics of every engine."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from r1pipe.stages import grpo, telemetry
from r1pipe.stages.telemetry import GENERATE, OTHER, SYNC, UPDATE, PhaseClock
from tests.stages import tiny


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_phase_inside_another_counts_for_itself_alone(seconds: list[float]) -> None:
    clock = PhaseClock()
    seconds[0] += 1
    with clock.phase(GENERATE):
        seconds[0] += 2
        with clock.phase(SYNC):
            seconds[0] += 4
        seconds[0] += 8
    clock.wrote(50)
    clock.switch(UPDATE)
    seconds[0] += 16
    found = clock.flush(steps=2)
    assert found == {
        "generate_time": 5.0,
        "sync_time": 2.0,
        "update_time": 8.0,
        "other_time": 0.5,
        "generated_tokens_per_second": 5.0,
    }
    assert clock.flush(steps=1) == {}
    assert clock.totals == {GENERATE: 10, SYNC: 4, UPDATE: 16, OTHER: 1}


def test_an_error_leaves_the_clock_in_the_phase_before(seconds: list[float]) -> None:
    clock = PhaseClock()
    with pytest.raises(ValueError), clock.phase(GENERATE):
        raise ValueError
    seconds[0] += 3
    assert clock.flush(steps=1) == {"other_time": 3.0}


@pytest.mark.parametrize("engine", ["compact", "transformers"])
def test_every_step_says_where_its_seconds_went(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = lambda terms, render: ([tiny.digits], [1.0])  # noqa: E731
    monkeypatch.setattr(grpo, "build_rewards", made)
    monkeypatch.setattr(grpo, "preflight", lambda *args: None)
    monkeypatch.setattr(grpo, "load_data", lambda *args, **kwargs: tiny.rows(16))
    stage = tiny.grpo_stage(
        tiny.save_model(tmp_path / "model"),
        engine,
        max_steps=2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
    )
    context = tiny.context(tmp_path / "work", stage)
    outcome = grpo.run(context)
    rows = [
        json.loads(line) for line in (context.workdir / "metrics.jsonl").read_text().splitlines()
    ]
    for row in rows:
        timing = row["timing"]
        assert {"generate_time", "reward_time", "update_time"} <= timing.keys()
        known = [timing.get(f"{name}_time", 0.0) for name in telemetry.PHASES]
        assert sum(known) >= 0.9 * timing["step_time"]
        assert timing["generated_tokens_per_second"] > 0
        assert "sync_time" not in timing  # the model itself writes
    assert outcome.timings["generate_s"] > 0 and outcome.timings["train_s"] > 0
