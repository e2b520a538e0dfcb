"""Curves are found, named with their unit, and drawn in the page's colours."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1pipe.report.collect import collect
from r1pipe.report.plots import accuracy_rows, draw_accuracy, draw_panels, panels, running_mean
from r1pipe.report.svg import inline


def test_a_grpo_stage_has_its_curves(full_run: Path) -> None:
    stage = collect(full_run).stage("reasoning_grpo")
    assert stage is not None
    found = {panel.title.split(",")[0]: panel for panel in panels(stage)}
    assert list(found)[:2] == ["reward", "reward by component"]
    wanted = {"completion length", "KL to the reference", "entropy", "groups without spread"}
    assert wanted | {"tokens a second", "cut off at the limit"} <= set(found)
    labels = [curve.label for curve in found["reward by component"].curves]
    assert labels == ["accuracy", "format", "language"]


def test_tasks_logged_apart_get_a_panel_each_measure(full_run: Path) -> None:
    stage = collect(full_run).stage("r1_zero")
    assert stage is not None
    for row in stage.history:
        row.update({"tasks/div/accuracy": 0.1, "tasks/add/accuracy": 0.9, "tasks/div/length": 70.0})
        row["tasks/add/length"] = 30.0
    found = {panel.title.split(" by task")[0]: panel for panel in panels(stage)}
    assert [curve.label for curve in found["answers right"].curves] == ["+", "÷"]
    assert found["completion length"].curves[1].values[0] == 70.0
    assert len(draw_panels(stage)) == len(panels(stage))


def test_experts_have_curves_of_their_load_and_losses(full_run: Path) -> None:
    stage = collect(full_run).stage("rejection_sft")
    assert stage is not None
    dense = {panel.title for panel in panels(stage)}
    for row in stage.history:
        row.update({"experts/max_violation": 0.4, "experts/max_violation_worst_layer": 0.9})
        row.update({"mtp_loss": 1.0, "balance_loss": 0.0001})
    found = {panel.title: panel for panel in panels(stage) if panel.title not in dense}
    assert len(found) == 3
    curves = found["load of the busiest expert over the mean"].curves
    assert [curve.label for curve in curves] == ["mean", "worst layer"]
    assert len(draw_panels(stage)) == len(panels(stage))


def test_a_stage_that_logged_nothing_has_no_curves(full_run: Path) -> None:
    stage = collect(full_run).stage("cold_start_data")
    assert stage is not None and draw_panels(stage) == []


def test_single_points_nulls_and_constants_are_drawn(full_run: Path) -> None:
    stage = collect(full_run).stage("r1_zero")
    assert stage is not None
    stage.history = [{"step": 1, "loss": 0.0, "kl": None, "reward": -2.5, "learning_rate": 1e-6}]
    assert len(draw_panels(stage)) == 3


def test_pictures_use_page_colours_and_keep_text(full_run: Path) -> None:
    picture = draw_accuracy(collect(full_run), None, 7.6)
    assert "var(--c1)" in picture.svg and "#0072b2" not in picture.svg
    assert ">rejection_sft</text>" in picture.svg
    assert "rejection_sft" in picture.alt and " % T=1" in picture.alt


def test_operations_have_their_own_figures(full_run: Path) -> None:
    run = collect(full_run)
    everything, division = dict(accuracy_rows(run, None)), dict(accuracy_rows(run, "div"))
    assert division["r1_zero"]["t1"].mean < everything["r1_zero"]["t1"].mean


def test_running_mean_keeps_the_length_and_a_constant() -> None:
    assert running_mean([2.0] * 20) == pytest.approx([2.0] * 20)
    assert running_mean([0.0, 3.0, 6.0], window=3) == pytest.approx([1.5, 3.0, 4.5])


def test_two_pictures_on_a_page_do_not_share_ids() -> None:
    source = '<?xml version="1.0"?><svg viewBox="0 0 72 72"><path id="a"/><use href="#a"/></svg>'
    first, second = inline(source, "x"), inline(source, "y")
    assert first != second and 'id="a"' not in first
    assert inline(source, "x") == first


def test_a_step_s_seconds_are_drawn_by_phase(full_run: Path) -> None:
    stage = collect(full_run).stage("r1_zero")
    assert stage is not None
    for row in stage.history:
        row.update({"generate_time": 2.0, "update_time": 1.0, "sync_time": 0.1, "check_time": 0.2})
    found = {panel.title: panel for panel in panels(stage)}
    curves = {curve.label: curve for curve in found["where a step's seconds go"].curves}
    assert list(curves) == ["writing", "update", "weights to the engine"]
    assert curves["weights to the engine"].values[0] == pytest.approx(0.3)
    assert len(draw_panels(stage)) == len(panels(stage))


def test_what_dynamic_sampling_costs_has_curves(full_run: Path) -> None:
    stage = collect(full_run).stage("r1_zero")
    assert stage is not None
    plain = {panel.title for panel in panels(stage)}
    for row in stage.history:
        row.update({"sampling/generated_per_used": 1.5, "sampling/rounds": 2.0})
        row.update({"difficulty/resting_solved": 0.25, "difficulty/resting_unsolved": 0.0})
    found = {panel.title: panel for panel in panels(stage) if panel.title not in plain}
    assert len(found) == 3
    resting = found["prompts that rest, %"]
    assert [curve.label for curve in resting.curves] == ["solved", "unsolved"] and resting.share
    assert len(draw_panels(stage)) == len(panels(stage))
