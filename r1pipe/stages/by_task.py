"""Logs rewards and lengths of each task apart while a policy trains."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

MOST_TASKS = 16
"""More tasks than this in one batch are not told apart: a column of ids is not one of tasks."""


class RewardsByTask(GRPOTrainer):
    """Mix in before a TRL trainer: `tasks/TASK/REWARD` and `tasks/TASK/length` (tokens) are logged.

    The task is the data set's column `task`; rows without one are left out.
    """

    model: Any
    _warned = False

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        # The rewards are those of all processes; every process has to see the same tasks.
        told = [
            (row.get("task"), len(ids))
            for row, ids in zip(inputs, completion_ids_list, strict=True)
        ]
        self._log_by_task(gather_object(told), rewards)
        self._log_unscored(rewards)
        return rewards

    def _log_unscored(self, rewards: Tensor) -> None:
        """Log the share of completions that no reward applies to; say it once where it is all."""
        share = rewards.isnan().all(dim=1).float().mean().item()
        if not share:
            return
        self._metrics["train" if self.model.training else "eval"]["rewards/unscored"].append(share)
        if share == 1 and not self._warned and self.accelerator.is_main_process:
            self._warned = True
            print(
                f"warning: step {self.state.global_step + 1}: no reward applies to any completion "
                "of the batch, which teaches nothing (`rewards/unscored` counts them from here on)",
                file=sys.stderr,
                flush=True,
            )

    def _log_by_task(self, told: Sequence[tuple[Any, int]], rewards: Tensor) -> None:
        """Log the means of (task, length) pairs of all processes with their rewards."""
        mode = "train" if self.model.training else "eval"
        means = means_by_task(told, self.reward_func_names, rewards.tolist())
        for name, value in means.items():
            self._metrics[mode][name].append(value)


def means_by_task(
    told: Sequence[tuple[Any, int]], names: Sequence[str], rewards: Sequence[Sequence[float]]
) -> dict[str, float]:
    """Return `{tasks/TASK/NAME: mean}` of (task, length) pairs with their rewards [rows, rewards].

    NaN, a reward that does not apply, is left out.
    """
    found: dict[str, list[float]] = defaultdict(list)
    tasks = {task for task, _ in told if isinstance(task, str)}
    if not 0 < len(tasks) <= MOST_TASKS:
        return {}
    for (task, length), values in zip(told, rewards, strict=True):
        if task not in tasks:
            continue
        found[f"tasks/{task}/length"].append(float(length))
        for name, value in zip(names, values, strict=True):
            if not math.isnan(value):
                found[f"tasks/{task}/{name}"].append(value)
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}
