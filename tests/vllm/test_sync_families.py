"""After optimizer steps vLLM gives every token the trainer's probability, for each model family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch

from r1pipe.errors import StageFailed
from r1pipe.rollout.agreement import agreement_of, flat, sums_of, token_logprobs
from r1pipe.rollout.checkpoint_names import checkpoint_tensors
from r1pipe.rollout.vllm_engine import Beside, VllmEngine
from r1pipe.schema import Sampling
from r1pipe.stages import colocated, grpo
from tests.vllm import families

EXACT = 1e-5  # nats, mean |Δ| in float32
LORA = {"r": 4, "alpha": 16, "dropout": 0.0, "target_modules": "all-linear"}
ONE = Sampling(temperature=1.0, top_p=1.0, max_tokens=12, num_samples=1)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward the share of digits, whatever the stage names."""
    made: Any = lambda terms, render: ([families.digits], [1.0])  # noqa: E731
    monkeypatch.setattr(grpo, "build_rewards", made)
    monkeypatch.setattr(grpo, "preflight", lambda *args: None)


def trained(context: Any) -> list[dict[str, Any]]:
    grpo.run(context)
    lines = (context.workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def moved_by(before: Any, folder: Path) -> float:
    """Return how far training moved the log-probabilities (nats), to know that syncs mattered."""
    after = grpo.load_causal_lm(folder, families.load())
    prompts = families.prompts(4)
    torch.manual_seed(0)
    rows = [torch.randint(3, 20, (8,)).tolist() for _ in prompts]
    old, new = (flat(token_logprobs(model, prompts, rows)) for model in (before, after))
    return (old - new).abs().mean().item()


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_engine_and_trainer_agree_after_optimizer_steps(
    family: str, lora: Any, tmp_path: Path, digits: None
) -> None:
    if lora is not None and family not in ("tied", "deepseek"):
        pytest.skip("adapters are merged the same way in the others")
    model = families.build(family, tmp_path / "model")
    settings = {"check_sequences": 16, "alarm_threshold": EXACT}
    context = families.grpo_context(tmp_path / "run", tmp_path / "model", settings, lora)
    rows = trained(context)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert moved_by(model, context.workdir / "model") > 100 * EXACT
    for row in rows:
        assert row["rollout/logp_diff_mean"] < EXACT
        assert row["rollout/logp_diff_max"] < 20 * EXACT
        assert row["rollout/ess"] == pytest.approx(1, abs=1e-6)
        # TRL's own figures, over every token of the batch.
        assert row["sampling/sampling_logp_difference/mean"] < EXACT
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("logprobs", ["engine", "rescore"])
def test_a_stale_engine_stops_the_run(
    logprobs: str, tmp_path: Path, digits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    families.build("dense", tmp_path / "model")
    monkeypatch.setattr(colocated.ColocatedVllm, "sync_weights", lambda self: None)
    settings = {"logprobs": logprobs}
    context = families.grpo_context(tmp_path / "run", tmp_path / "model", settings)
    with pytest.raises(StageFailed, match=r"step 2: .*does not hold the trainer's weights"):
        trained(context)


def test_a_stale_engine_is_warned_about_where_that_is_asked(
    tmp_path: Path, digits: None, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    families.build("dense", tmp_path / "model")
    monkeypatch.setattr(colocated.ColocatedVllm, "sync_weights", lambda self: None)
    settings = {"logprobs": "none", "on_alarm": "warn"}
    context = families.grpo_context(tmp_path / "run", tmp_path / "model", settings)
    rows = trained(context)
    assert len(rows) == 3
    assert rows[0]["rollout/logp_diff_mean"] < EXACT < 1e-3 < rows[1]["rollout/logp_diff_mean"]
    assert "sampling/sampling_logp_difference/mean" not in rows[0]  # nothing to correct with
    assert "warning: step 2: vLLM gives the tokens other probabilities" in capfd.readouterr().err


def test_weights_that_were_not_sent_are_named_and_the_next_whole_sync_mends_it(
    tmp_path: Path,
) -> None:
    model = families.build("deepseek", tmp_path / "model")
    engine = VllmEngine(
        families.rollout(), str(tmp_path / "model"), families.load(), Beside(rows=16)
    )
    try:
        engine.load(checkpoint_tensors(model))
        for left_out in ("e_score_correction_bias", "experts", "embed_tokens", "kv_b_proj"):
            families.disturb(model, seed=len(left_out), size=0.1)
            some = ((n, t) for n, t in checkpoint_tensors(model) if f".{left_out}" not in n)
            with pytest.raises(StageFailed, match=r"no new values for \d+ of its weights"):
                engine.load(some)
            engine.load(checkpoint_tensors(model))
            assert difference(engine, model) < EXACT
    finally:
        engine.close()


def difference(engine: VllmEngine, model: Any) -> float:
    prompts = families.prompts(16)
    written = engine.write(prompts, ONE, seed=0)
    own = token_logprobs(model, prompts, written.ids)
    return agreement_of(sums_of(flat(engine.score(prompts, written.ids)), flat(own))[None]).mean
