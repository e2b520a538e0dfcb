"""The arithmetic recipes: what they share, what they hold out, the miniature, the page."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import ModuleType

import pytest
import torch

from r1pipe.compose import compose_recipe
from r1pipe.data.sources import load_mixed_rows
from r1pipe.errors import UserError
from r1pipe.plan import make_plan
from r1pipe.recipes import conf_dir, recipes_dir
from r1pipe.report.collect import collect
from r1pipe.report.records import StageRecord
from r1pipe.schema import EvalStage, Run, SampleStage
from r1pipe.validate import validate
from tests.report.fake_run import write_fake_run

RECIPES = ("arithmetic_r1", "arithmetic_r1_zero", "arithmetic_r1_cpu")
BENCHMARKS = conf_dir().parent / "benchmarks"


def run_of(recipe: str, *overrides: str) -> Run:
    return validate(*compose_recipe(recipe, ["dry_run=true", *overrides], recipes_dir()))


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("arithmetic")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_chain_can_go_on_from_what_the_short_recipe_left(tmp_path: Path) -> None:
    def fingerprints(recipe: str) -> list[str]:
        plan = make_plan(run_of(recipe, f"output_root={tmp_path / recipe}", "name=seed_0"))
        shared = ("base", "base_eval", "r1_zero", "r1_zero_eval")
        return [plan.stages[name].fingerprint for name in shared]

    assert fingerprints(RECIPES[0]) == fingerprints(RECIPES[1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_ten_thousand_prompts_are_held_out(recipe: str) -> None:
    stage = run_of(recipe).stages["base_eval"]
    assert isinstance(stage, EvalStage)
    rows = load_mixed_rows(stage.data, 0, need={"prompt"})
    asked = [row for row in rows if row["domain"] == "reasoning"]
    distinct = {row["id"].split("|")[0] for row in asked}
    pairs = {(row["prompt"], row["answer"]) for row in asked}
    assert (len(asked), len(pairs), len(distinct)) == (10_000, 10_000, 8_429)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_miniature_makes_a_plan(recipe: str, benchmark: ModuleType, tmp_path: Path) -> None:
    asked = benchmark.arguments(["--recipe", recipe, "--mini", "--runs", str(tmp_path)])
    command = benchmark.run_command(asked, 3)
    overrides = command[command.index(f"recipes/{recipe}.yaml") + 1 :]
    plan = make_plan(run_of(recipe, *overrides))
    assert plan.run_dir == tmp_path / "seed_3"
    trainers = [getattr(planned.stage, "trainer", {}) for planned in plan.stages.values()]
    assert max(trainer.get("max_steps", 0) for trainer in trainers) <= 4


def test_a_miniature_base_is_trained_on_a_stream(benchmark: ModuleType, tmp_path: Path) -> None:
    given = ["--recipe", RECIPES[1], "--mini", "--runs", str(tmp_path)]
    asked = benchmark.arguments([*given, "only=[base]", "report=false"])
    few = ["stages.base.data.limit=512", "stages.base.trainer.logging_steps=4"]
    command = [*benchmark.run_command(asked, 0), *few]
    done = subprocess.run(command, cwd=benchmark.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    record = collect(tmp_path / "seed_0").stage("base")
    assert record is not None and record.status == "complete"
    assert record.steps == 512 // 64
    assert record.machine and record.gpus == torch.cuda.device_count()
    losses = [row["loss"] for row in record.history if "loss" in row]
    assert losses and all(0 < loss < 10 for loss in losses)


def test_the_control_has_the_same_active_size() -> None:
    from r1pipe.models.building import fresh_config
    from r1pipe.models.describing import describe_config

    ours, control = (
        run_of("arithmetic_r1", *o).model for o in ([], ["model=tiny", "model.size=m"])
    )
    sizes = [describe_config(fresh_config(model, model.size, 0)) for model in (ours, control)]
    assert sizes[0].parameters + (sizes[0].mtp_parameters or 0) <= 30_000_000
    active = [size.active_parameters or 0 for size in sizes]
    assert max(active) / min(active) < 1.05


@pytest.mark.parametrize(("wrong", "asked"), [(0, 2500), (16, 2500), (5, 100), (99, 100)])
def test_the_bound_is_the_rate_at_which_so_few_errors_are_rare(
    wrong: int, asked: int, benchmark: ModuleType
) -> None:
    bound = benchmark.error_bound(wrong, asked)
    chance = sum(
        math.comb(asked, k) * bound**k * (1 - bound) ** (asked - k) for k in range(wrong + 1)
    )
    assert chance == pytest.approx(0.05, rel=1e-6)
    assert wrong / asked < bound < 1


def test_all_wrong_has_no_bound_below_one(benchmark: ModuleType) -> None:
    assert benchmark.error_bound(7, 7) == benchmark.error_bound(0, 0) == 1.0


def test_minutes_side_by_side_and_between_sittings_count_once(benchmark: ModuleType) -> None:
    def stage(name: str, start: str, end: str) -> StageRecord:
        seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
        return StageRecord(name, "sft", "complete", timings={"wall_s": seconds}, created=end)

    day = "2026-01-01T{}+00:00".format
    stages = [
        stage("first", day("10:00:00"), day("10:02:00")),
        stage("beside", day("10:01:00"), day("10:01:30")),
        stage("next", day("10:02:00"), day("10:03:00")),
        stage("the day after", "2026-01-02T10:00:00+00:00", "2026-01-02T10:01:30+00:00"),
        StageRecord("never", "sft", "not run"),
    ]
    assert benchmark.busy_minutes(stages) == pytest.approx(4.5)


def test_tokens_are_counted_from_the_metrics(benchmark: ModuleType) -> None:
    rows = [
        {"step": 8, "num_tokens": 100, "generate_time": 0.25, "generated_tokens_per_second": 40.0},
        {"step": 16, "num_tokens": 260, "generate_time": 0.5, "generated_tokens_per_second": 60.0},
    ]
    record = StageRecord(
        "rl", "grpo", "complete", timings={"wall_s": 9.0, "cpu_s": 7.0}, history=rows
    )
    cost = benchmark.cost_of(record)
    assert (cost.seconds, cost.trained, cost.writing) == (9.0, 260, 6.0)
    assert benchmark.cost_of(record, cpu=True).seconds == 7.0
    assert cost.sampled == 2 * 40 + 4 * 60


def test_the_page_is_made_of_the_artifacts(benchmark: ModuleType, tmp_path: Path) -> None:
    runs = [collect(write_fake_run(tmp_path / f"seed_{n}", seed=n, per_task=50)) for n in (0, 1)]
    asked = benchmark.arguments(["--seeds", "0", "1", "--runs", str(tmp_path)])
    text = benchmark.page(runs, asked)
    for stage in runs[0].models:
        score = stage.decoding("greedy")
        assert score is not None and score.accuracy is not None
        wrong, asked_of = benchmark.errors_of(score.accuracy)
        assert f"| `{stage.name}` | " in text and f"| {100 * wrong / asked_of:.2f} (" in text
    assert "## Seed 1" in text and "--seeds 0 1" in text
    picture = benchmark.write_curves(runs, tmp_path / "curves.png")
    assert picture is not None and picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("gpus", "unit"), [(0, "CPU-minutes"), (1, "GPU-minutes")])
def test_only_runs_on_a_gpu_are_held_to_its_speed(
    gpus: int, unit: str, benchmark: ModuleType, tmp_path: Path
) -> None:
    run = collect(write_fake_run(tmp_path / "seed_0", per_task=50))
    for stage in run.stages:
        stage.gpus = gpus
    text = benchmark.page([run], benchmark.arguments(["--seeds", "0", "--runs", str(tmp_path)]))
    assert f" {unit}.\n" in text and ("GPU" in text) is bool(gpus)
    assert ("| ≤ 15 |" in text) is bool(gpus)
    assert "\nA Processor 9000, 1 thread. Model: " in text


def test_seeds_side_by_side_take_the_gpus_in_turns(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(*given: str) -> list[str | None]:
        asked = benchmark.arguments(list(given))
        return [benchmark.environment(asked, s).get("CUDA_VISIBLE_DEVICES") for s in asked.seeds]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(benchmark, "visible_gpus", lambda: 2)
    assert chosen() == [None] * 3
    assert chosen("--at-once", "3") == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    assert chosen("--at-once", "2", "--seeds", "4", "9") == ["5", "7"]
    monkeypatch.setattr(benchmark, "visible_gpus", lambda: None)
    assert chosen("--at-once", "2") == ["5, 7"] * 3


def test_one_place_says_how_carries_are_written_and_takes_a_truth_value() -> None:
    key = "stages.base.data.options.carry_in_columns"
    for given, value in (("true", True), ("false", False)):
        sample = run_of("arithmetic_r1", f"{key}={given}").stages["cold_start_data"]
        assert isinstance(sample, SampleStage) and sample.few_shot is not None
        assert sample.few_shot.options == {"carry_in_columns": value}
    with pytest.raises(UserError, match=f"{key}.*true or false, received `yes`"):
        run_of("arithmetic_r1", f"{key}=yes")
