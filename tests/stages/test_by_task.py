"""Rewards and lengths of each task apart: means, rows that do not count, and too many tasks."""

from __future__ import annotations

import math

import pytest

from r1pipe.stages.by_task import MOST_TASKS, means_by_task


def test_means_of_each_task_leave_out_what_does_not_apply() -> None:
    told = [("add", 10), ("div", 50), ("add", 20), (None, 99)]
    rewards = [[1.0, 1.0], [0.0, math.nan], [0.0, 1.0], [1.0, 1.0]]
    assert means_by_task(told, ["accuracy", "format"], rewards) == {
        "tasks/add/accuracy": pytest.approx(0.5),
        "tasks/add/format": pytest.approx(1.0),
        "tasks/add/length": pytest.approx(15.0),
        "tasks/div/accuracy": pytest.approx(0.0),
        "tasks/div/length": pytest.approx(50.0),
    }


def test_rows_without_tasks_and_columns_of_ids_are_not_told_apart() -> None:
    assert means_by_task([(None, 3), (7, 4)], ["accuracy"], [[1.0], [1.0]]) == {}
    ids = [(f"row {i}", 1) for i in range(MOST_TASKS + 1)]
    assert means_by_task(ids, ["accuracy"], [[1.0]] * len(ids)) == {}
