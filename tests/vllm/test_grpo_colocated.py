"""vLLM in the process of a stage: parity, log-probabilities, the seconds of a step, and faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch

from r1pipe.errors import StageFailed, UserError
from r1pipe.rollout.engine import make_engine
from r1pipe.rollout.vllm_engine import VllmEngine
from r1pipe.schema import Sampling
from r1pipe.stages import colocated, grpo
from r1pipe.stages.telemetry import PHASES
from tests.stages import tiny
from tests.vllm import families

EXACT = 1e-5


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward the share of digits, whatever the stage names."""
    made: Any = lambda terms, render: ([families.digits], [1.0])  # noqa: E731
    monkeypatch.setattr(grpo, "build_rewards", made)
    monkeypatch.setattr(grpo, "preflight", lambda *args: None)


def sampling(temperature: float, top_p: float = 1.0, count: int = 1) -> Sampling:
    return Sampling(temperature=temperature, top_p=top_p, max_tokens=16, num_samples=count)


@pytest.mark.parametrize("family", ["tied", "deepseek"])
def test_greedy_completions_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    families.build(family, tmp_path)
    prompts = families.prompts(32)
    written = {}
    for name in ("vllm", "transformers"):
        engine = make_engine(families.rollout(engine=name), str(tmp_path), families.load())
        written[name] = engine.write(prompts, sampling(0.0), seed=0, logprobs=True)
        if isinstance(engine, VllmEngine):
            read = engine.score(prompts, written[name].ids)
            check_sampling(engine, prompts)
        engine.close()
    assert written["vllm"].ids == written["transformers"].ids
    for ours, theirs in zip(read, written["transformers"].logprobs or [], strict=True):
        assert ours == pytest.approx(theirs, abs=5e-5)


def check_sampling(engine: VllmEngine, prompts: list[list[int]]) -> None:
    """Seeds decide alone; several completions of a prompt differ; both ways of scoring agree."""
    first = engine.generate(prompts, sampling(1.0, count=3), seed=5)
    engine.generate(prompts[:2], sampling(1.0), seed=9)
    assert engine.generate(prompts, sampling(1.0, count=3), seed=5) == first
    assert engine.generate(prompts, sampling(1.0, count=3), seed=6) != first
    assert any(len({tuple(ids) for ids in group}) == 3 for group in first)
    engine.banned = (
        None  # as beside a trainer; where padding is banned, samples know and reading not
    )
    written = engine.write(prompts, sampling(0.7), seed=1, logprobs=True)
    assert written.logprobs is not None
    scored = engine.score(prompts, written.ids, temperature=0.7)
    for ids, drawn, read in zip(written.ids, written.logprobs, scored, strict=True):
        assert 1 <= len(ids) == len(drawn) == len(read)
        assert set(ids[:-1]).isdisjoint(engine.end_ids)
        assert drawn == pytest.approx(read, abs=5e-5)


def test_a_sequence_as_long_as_the_context_is_scored_but_for_its_end(tmp_path: Path) -> None:
    families.build("dense", tmp_path)
    settings = families.rollout(max_model_length=16)
    engine = make_engine(settings, str(tmp_path), families.load())
    assert isinstance(engine, VllmEngine) and engine.context == 16
    try:
        prompt, completion = [5] * 6, [7] * 10
        short = engine.score([prompt], [completion[:5]])[0]
        whole = engine.score([prompt], [completion])[0]
        assert whole[:5] == pytest.approx(short, abs=1e-5)
        assert [value != value for value in whole] == [False] * 9 + [True]
        assert engine.score([prompt], [[]]) == [[]]
    finally:
        engine.close()


def test_the_engines_own_speed_is_measured_once_and_changes_nothing(
    tmp_path: Path, digits: None
) -> None:
    families.build("dense", tmp_path / "model")
    found = {}
    for measured in (True, False):
        folder = tmp_path / str(measured)
        context = families.grpo_context(folder, tmp_path / "model", {"measure_raw": measured})
        grpo.run(context)
        lines = (context.workdir / "metrics.jsonl").read_text().splitlines()
        found[measured] = [json.loads(line) for line in lines]
    for plain, own in zip(found[False], found[True], strict=True):
        assert {k: v for k, v in plain.items() if k != "timing"} == {
            k: v for k, v in own.items() if k != "timing"
        }
        assert "share_of_raw_speed" not in plain["timing"]
    timings = [row["timing"] for row in found[True]]
    assert ["share_of_raw_speed" in timing for timing in timings] == [False, True, True]
    assert len({timing["raw_tokens_per_second"] for timing in timings[1:]}) == 1
    for timing in timings[1:]:
        rate, raw = (timing[f"{kind}_tokens_per_second"] for kind in ("generated", "raw"))
        assert timing["share_of_raw_speed"] == pytest.approx(rate / raw, rel=1e-3)


@pytest.mark.parametrize("logprobs", ["rescore", "none"])
def test_every_source_of_log_probabilities_trains_and_the_seconds_add_up(
    logprobs: str, tmp_path: Path, digits: None
) -> None:
    families.build("dense", tmp_path / "model")
    settings = {"logprobs": logprobs, "check_every": 2, "alarm_threshold": EXACT}
    context = families.grpo_context(tmp_path / "run", tmp_path / "model", settings, temperature=0.8)
    outcome = grpo.run(context)
    lines = (context.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    checked = [row["step"] for row in rows if "rollout/logp_diff_mean" in row]
    assert checked == [1, 3]
    corrected = [row.get("sampling/importance_sampling_ratio/mean") for row in rows]
    if logprobs == "none":
        assert corrected == [None] * 3
    else:
        assert corrected == pytest.approx([1.0] * 3, abs=1e-3)
    for row in rows:
        seconds = [row["timing"].get(f"{name}_time", 0.0) for name in PHASES]
        assert sum(seconds) >= 0.9 * row["timing"]["step_time"]
        assert row["timing"]["generated_tokens_per_second"] > 0
        assert row["timing"]["sync_time"] > 0
    assert {"generate_s", "sync_s", "check_s", "reward_s", "score_s"} <= outcome.timings.keys()


def test_an_engine_that_fails_in_mid_step_stops_the_stage_with_its_checkpoint(
    tmp_path: Path, digits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    families.build("dense", tmp_path / "model")
    context = families.grpo_context(tmp_path / "run", tmp_path / "model", {}, save_steps=1)
    plain, calls = colocated.ColocatedVllm.write, 0

    def write(self: Any, prompt_ids: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            step, steps = self.engine._llm.llm_engine.step, 0

            def dies() -> Any:
                nonlocal steps
                steps += 1
                if steps > 3:
                    raise RuntimeError("the engine was killed")
                return step()

            self.engine._llm.llm_engine.step = dies
        return plain(self, prompt_ids)

    monkeypatch.setattr(colocated.ColocatedVllm, "write", write)
    with pytest.raises(StageFailed, match=r"step 2: writing: vLLM failed: .*killed.*checkpoint is"):
        grpo.run(context)
    assert [each.name for each in context.checkpoints.iterdir()] == ["checkpoint-1"]
    monkeypatch.setattr(colocated.ColocatedVllm, "write", plain)
    outcome = grpo.run(context)  # goes on where it was
    assert outcome.metrics["steps"] == 3


def test_an_empty_completion_is_an_end_token_and_is_counted(
    tmp_path: Path, digits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    families.build("dense", tmp_path / "model")
    context = families.grpo_context(tmp_path / "run", tmp_path / "model", {"check_every": 2})
    plain = VllmEngine.write

    def write(self: Any, *args: Any, **kwargs: Any) -> Any:
        written = plain(self, *args, **kwargs)
        written.ids[3], written.logprobs[3] = [], []
        return written

    monkeypatch.setattr(VllmEngine, "write", write)
    grpo.run(context)
    lines = (context.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["rollout/empty"] for row in rows] == [1.0] * 3
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)


def test_prompts_beyond_the_engine_s_context_are_refused_or_dropped_and_counted(
    tmp_path: Path, digits: None
) -> None:
    families.build("dense", tmp_path / "model")
    settings = {"max_model_length": 16}
    context = families.grpo_context(tmp_path / "run", tmp_path / "model", settings)
    rows = context.workdir.parent / "rows.jsonl"
    rows.write_text(rows.read_text() + '{"prompt": "11111+1=", "answer": "2"}\n')
    with pytest.raises(UserError, match="1 of 26 prompts are longer than the 4 tokens"):
        grpo.run(context)
    data = context.stage.data.model_copy(update={"overlong": "drop"})  # type: ignore[attr-defined]
    stage = context.stage.model_copy(update={"data": data})
    outcome = grpo.run(type(context)("grpo", stage, context.workdir, context.progress))
    assert outcome.metrics["prompts_dropped"] == 1


def test_a_head_size_without_a_kernel_is_named_before_anything_is_written(tmp_path: Path) -> None:
    path = tiny.save_model(tmp_path)
    with pytest.raises(UserError, match=r"heads have 8 features[\s\S]*rollout=compact"):
        make_engine(families.rollout(), path, families.load()).close()
