"""Keeps the last groups whose rewards differ, with what the policy that wrote them said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from r1pipe.schema import GroupReplay as Options
from r1pipe.stages.finished_groups import Behaviour, Group, Row

_LISTS = {"prompt_ids": torch.int64, "completion_ids": torch.int64, "env_mask": torch.int64}
_BEHAVIOUR = ("old", "sampled", "ratio", "routes")


class GroupReplay:
    """A bounded buffer of groups for batches that new prompts did not fill.

    A group stands in for a new one at most once, and not when it was written more than `max_age`
    optimizer steps ago. Its update weighs each token by pi_now / pi_then, where pi_then wrote it.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.groups: list[Group] = []

    def add(self, groups: Sequence[Group]) -> None:
        """Keep `groups`, the newest last; the oldest make room."""
        self.groups = [*self.groups, *groups][-self.options.size :]

    def take(self, count: int, step: int) -> list[Group]:
        """Return up to `count` groups, the newest first, and forget them and those too old."""
        young = [group for group in self.groups if step - group.step <= self.options.max_age]
        # Those of this very step are in its gradient already.
        able = [group for group in young if group.step < step]
        taken = able[::-1][:count]
        for group in taken:
            group.replayed = True
        self.groups = [group for group in young if not group.replayed]
        return taken

    def state(self, tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Return the groups as JSON; what are numbers of tokens goes into `tensors` by name."""
        found = []
        for number, group in enumerate(self.groups):
            tensors[f"{number}.rewards"] = group.rewards.cpu()
            rows = {
                str(place): _dump(row, f"{number}.{place}", tensors)
                for place, row in group.rows.items()
            }
            meta = {"index": group.index, "step": group.step, "ranks": group.ranks}
            found.append({**meta, "rows": rows})
        return found

    def restore(
        self,
        state: Sequence[dict[str, Any]],
        tensors: dict[str, Tensor],
        inputs: Callable[[int], dict[str, Any]],
    ) -> None:
        """Take back what `state` wrote; `inputs(index)` is a row of the data set."""
        self.groups = []
        for number, saved in enumerate(state):
            rows = {
                int(place): _load(row, inputs(saved["index"]), f"{number}.{place}.", tensors)
                for place, row in saved["rows"].items()
            }
            rewards = tensors[f"{number}.rewards"]
            group = Group(saved["index"], saved["step"], rewards, saved["ranks"], rows)
            self.groups.append(group)


def _dump(row: Row, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for key, kind in _LISTS.items():
        if (values := getattr(row, key)) is not None:
            tensors[f"{name}.{key}"] = torch.tensor(values, dtype=kind)
    if row.logprobs is not None:
        known = [float("nan") if value is None else value for value in row.logprobs]
        tensors[f"{name}.logprobs"] = torch.tensor(known, dtype=torch.float64)
    if row.routes is not None:
        # An engine's routes are views of one tensor, and safetensors refuses shared memory.
        tensors[f"{name}.routes"] = row.routes.cpu().clone().contiguous()
    for key in _BEHAVIOUR:
        value = getattr(row.behaviour, key)
        if value is not None:
            tensors[f"{name}.behaviour.{key}"] = value.contiguous()
    return {"completion": row.completion, "logged": row.logged}


def _load(
    saved: dict[str, Any], inputs: dict[str, Any], name: str, tensors: dict[str, Tensor]
) -> Row:
    def found(key: str) -> Tensor | None:
        return tensors.get(name + key)

    def listed(key: str) -> Any:
        value = found(key)
        return None if value is None else value.tolist()

    behaviour: dict[str, Any] = {key: found(f"behaviour.{key}") for key in _BEHAVIOUR}
    lists = {key: listed(key) for key in (*_LISTS, "logprobs")}
    return Row(
        inputs=inputs, routes=found("routes"), behaviour=Behaviour(**behaviour), **saved, **lists
    )
