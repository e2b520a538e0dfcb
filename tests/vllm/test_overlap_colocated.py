"""GRPO beside vLLM: rewards that work ahead change nothing, and long completions span steps."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from r1pipe.rewards.completions import checked_by
from r1pipe.schema import PartialRollouts
from r1pipe.stages import grpo
from tests.vllm import families

WHERE: list[tuple[str, int]] = []


@checked_by(None, looks_at="row")
def digits(completions: list[str], **columns: Any) -> list[float]:
    WHERE.append((threading.current_thread().name, len(completions)))
    return families.digits(completions)


@pytest.fixture(autouse=True)
def digits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = lambda terms, render: ([digits], [1.0])  # noqa: E731
    monkeypatch.setattr(grpo, "build_rewards", made)
    monkeypatch.setattr(grpo, "preflight", lambda *args: None)
    WHERE.clear()


def rows_of(context: Any) -> list[dict[str, Any]]:
    lines = (context.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "timing"} for row in rows]


def test_rewards_work_ahead_and_change_nothing(tmp_path: Path) -> None:
    families.build("dense", tmp_path / "model")
    found = []
    for overlap in (False, True):
        settings = {"overlap_rewards": overlap}
        folder = tmp_path / str(overlap)
        context = families.grpo_context(folder, tmp_path / "model", settings, max_steps=2)
        grpo.run(context)
        found.append(rows_of(context))
    assert found[0] == found[1]
    assert {"mismatch/kl_k3", "mismatch/ess"} <= found[0][0].keys()
    ahead = [count for name, count in WHERE if name == "rewards-ahead"]
    assert sum(ahead) == 32 and len(ahead) > 2


def test_completions_that_span_steps_are_weighed_by_who_drew_them(tmp_path: Path) -> None:
    families.build("dense", tmp_path / "model")
    settings = {"alarm_threshold": 1e-4}
    trainer = {"max_steps": 5, "max_completion_length": 80, "temperature": 2.0}
    context = families.grpo_context(tmp_path / "run", tmp_path / "model", settings, **trainer)
    asked = PartialRollouts(enabled=True, ahead=1.0, max_staleness=2)
    stage = context.stage.model_copy(update={"partial_rollouts": asked})
    context = type(context)("grpo", stage, context.workdir, context.progress)
    grpo.run(context)
    rows = rows_of(context)
    assert len(rows) == 5
    assert any(row["partial/continued"] > 0 for row in rows)
    assert all(row["partial/max_staleness"] <= 2 for row in rows)
    assert rows[0]["mismatch/ess"] == pytest.approx(1.0, abs=1e-4)
    assert min(row["mismatch/ess"] for row in rows) < 0.999
