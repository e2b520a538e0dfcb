"""Dynamic sampling and group replay with vLLM writing: the off-policy correction stays right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch

from r1pipe.schema import DynamicSampling, GroupReplay
from r1pipe.stages import grpo
from r1pipe.stages.dynamic_sampling import DynamicSampling as Mixin
from tests.vllm import families


def rarely(completions: list[str], prompts: list[str], **columns: Any) -> list[float]:
    """Spread on some prompts alone: the others earn 0 throughout."""
    pairs = zip(completions, prompts, strict=True)
    return [float(text[:1].isdigit()) if prompt < "5" else 0.0 for text, prompt in pairs]


def test_replayed_groups_keep_the_ratio_of_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = lambda terms, render: ([rarely], [1.0])  # noqa: E731
    monkeypatch.setattr(grpo, "build_rewards", made)
    monkeypatch.setattr(grpo, "preflight", lambda *args: None)
    families.build("dense", tmp_path / "model")
    options = {"max_steps": 6, "learning_rate": 0.01}
    context = families.grpo_context(tmp_path / "run", tmp_path / "model", {}, **options)
    rounds = DynamicSampling(enabled=True, max_rounds=1, oversampling=1.0, reward=None)
    kept = GroupReplay(enabled=True, size=16, max_age=8)
    sections = {"dynamic_sampling": rounds, "group_replay": kept}
    stage = context.stage.model_copy(update=sections)
    context = type(context)("grpo", stage, context.workdir, context.progress)
    original, replayed = Mixin._score, []

    def score(self: Any, control: Any, batch: Any) -> Any:
        again = [group.replayed for group in batch for _ in group.ranks]
        output = original(self, control, batch)
        for place in [place for place, is_again in enumerate(again) if is_again]:
            real = output["completion_mask"][place].bool()
            old = output["old_per_token_logps"][place][real]
            sampled = output["sampling_per_token_logps"][place][real]
            # Engine and trainer had the same weights when it was written, and no others since.
            torch.testing.assert_close(old, sampled, atol=1e-4, rtol=0)
            replayed.append(place)
        ratio = output["importance_sampling_ratio"]
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-2, rtol=0)
        return output

    monkeypatch.setattr(Mixin, "_score", score)
    grpo.run(context)
    assert replayed
    rows = [json.loads(line) for line in (context.workdir / "metrics.jsonl").open()]
    assert all(row["sampling/sampling_logp_difference/max"] < 1e-4 for row in rows)
    assert sum(row["sampling/replayed_groups"] for row in rows) > 0
