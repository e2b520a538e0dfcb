"""Evaluation: the figures are those of its own samples, the problems are always the same."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from r1pipe.report.intervals import normal, summary, wilson
from r1pipe.stages import evaluate
from tests.stages.tiny_stage import arithmetic, context, eval_stage, sampling, save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(evaluate, "SHARD_BATCHES", 1)


def run(folder: Path, stage, name: str = "base_eval"):
    outcome = evaluate.run(context(folder, name, stage))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return outcome, evaluation, samples


def test_the_file_holds_every_decoding_task_and_domain(tmp_path, model):
    stage = eval_stage(model, data=arithmetic(split="test", limit=None, options={"per_task": 9}))
    outcome, evaluation, _ = run(tmp_path, stage)
    assert evaluation["model"] == "base"
    assert list(evaluation["decodings"]) == ["greedy", "t1"]
    greedy = evaluation["decodings"]["greedy"]
    assert greedy["temperature"] == 0.0
    assert set(greedy["tasks"]) == {"add", "sub", "mul", "div"}
    assert set(greedy["domains"]) == {"reasoning"}
    for part in [greedy["overall"], *greedy["tasks"].values()]:
        assert set(part) == {"even_length", "length", "truncated"}
        assert all(set(metric) == {"mean", "low", "high", "n"} for metric in part.values())
    assert greedy["overall"]["even_length"]["n"] == 36
    assert outcome.kind == "evaluation"
    assert (
        outcome.metrics["t1/length"] == evaluation["decodings"]["t1"]["overall"]["length"]["mean"]
    )


def test_figures_are_those_of_the_samples(tmp_path, model):
    _, evaluation, samples = run(tmp_path, eval_stage(model, save_samples=1000))
    for name, decoding in evaluation["decodings"].items():
        mine = [sample for sample in samples if sample["decoding"] == name]
        assert len(mine) == 32
        even = [float(len(sample["completion"]) % 2 == 0) for sample in mine]
        assert decoding["overall"]["even_length"]["mean"] == pytest.approx(sum(even) / 32)
        tasks = {sample["task"] for sample in mine}
        assert set(decoding["tasks"]) == tasks
        assert sum(part["length"]["n"] for part in decoding["tasks"].values()) == 32


def test_the_first_wrong_answers_of_each_task_are_kept_in_order() -> None:
    rows = [{"id": str(i), "task": "add" if i < 4 else "div"} for i in range(8)]
    right = {"accuracy": 1.0, "format": 0.0}
    wrong, unjudged = {"accuracy": 0.0, "format": 1.0}, {"accuracy": None, "format": 0.0}
    given = [wrong, right, wrong, wrong, unjudged, right, wrong, right]
    records = [
        {"row": i, "completion": "", "length": 1, "rewards": rewards}
        for i, rewards in enumerate(given)
    ]
    found = evaluate.first_wrong(rows, {"greedy": records, "t1": records[:1]}, ["accuracy"], 2)
    assert [(s["decoding"], s["id"]) for s in found] == [
        ("greedy", "0"),
        ("greedy", "2"),
        ("greedy", "6"),
        ("t1", "0"),
    ]


def test_a_reward_counts_where_it_applies(tmp_path, model):
    stage = eval_stage(model, rewards={"english_only": {"weight": 1.0}}, save_samples=1000)
    _, evaluation, samples = run(tmp_path, stage)
    english = sum(s["language"] == "en" for s in samples if s["decoding"] == "greedy")
    assert evaluation["decodings"]["greedy"]["overall"]["english_only"]["n"] == english < 32


def test_samples_are_of_the_same_problems_for_every_decoding_and_seed(tmp_path, model):
    _, _, samples = run(tmp_path / "a", eval_stage(model))
    _, _, other = run(tmp_path / "b", eval_stage(model, seed=9))
    by_decoding = {d: {s["id"] for s in samples if s["decoding"] == d} for d in ("greedy", "t1")}
    assert by_decoding["greedy"] == by_decoding["t1"] == {s["id"] for s in other}
    assert len(by_decoding["greedy"]) == 8  # two of each of four tasks


def test_several_samples_of_a_problem_are_one_observation(tmp_path, model):
    stage = eval_stage(model, decodings={"t1": sampling(num_samples=4)})
    _, evaluation, _ = run(tmp_path, stage)
    assert evaluation["decodings"]["t1"]["overall"]["even_length"]["n"] == 32


def test_a_killed_run_continues_to_the_same_bytes(tmp_path, model, monkeypatch):
    stage = eval_stage(model)
    undisturbed, _, _ = run(tmp_path / "whole", stage)
    write, calls = evaluate.write_and_score, []

    def die_in_the_third(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate, "write_and_score", die_in_the_third)
        run(tmp_path / "killed", stage)
    resumed, _, _ = run(tmp_path / "killed", stage)
    assert resumed.metrics == undisturbed.metrics
    for name in ("evaluation.json", "samples.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_transformers_engine_gives_the_same_greedy_figures(tmp_path, model):
    stage = eval_stage(model)
    slow = stage.model_copy(
        update={"rollout": stage.rollout.model_copy(update={"engine": "transformers"})}
    )
    _, first, _ = run(tmp_path / "a", stage)
    _, second, _ = run(tmp_path / "b", slow)
    assert first["decodings"]["greedy"] == second["decodings"]["greedy"]


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (10, 10), (3, 7), (500, 1000)])
def test_wilson_solves_its_equation(successes, count):
    low, high = wilson(successes, count)
    share = successes / count
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(
                1.95996 * math.sqrt(end * (1 - end) / count), 1e-4
            )


def test_intervals_cover_the_truth_95_times_in_100():
    rng = random.Random(0)
    wilson_hits = normal_hits = 0
    for _ in range(2000):
        wins = sum(rng.random() < 0.1 for _ in range(100))
        low, high = wilson(wins, 100)
        wilson_hits += low <= 0.1 <= high
        low, high = normal([rng.expovariate(1.0) for _ in range(200)])
        normal_hits += low <= 1.0 <= high
    assert 0.93 <= wilson_hits / 2000 <= 0.97
    assert 0.93 <= normal_hits / 2000 <= 0.97


def test_the_kind_of_interval_follows_the_values():
    assert summary([0.0, 1.0, 1.0])["low"] == wilson(2, 3)[0]
    assert summary([0.5, 1.0, 1.0])["low"] == normal([0.5, 1.0, 1.0])[0]
    assert summary([2.5]) == {"mean": 2.5, "low": 2.5, "high": 2.5, "n": 1}
