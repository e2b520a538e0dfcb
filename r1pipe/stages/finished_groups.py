"""Finished groups: completions of one prompt with their rewards, wherever their rows lie.

G completions a group, F reward functions, R rows of one rank in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SAME = 1e-6
"""Rewards closer than this are equal: sums of the same terms differ by rounding (float32)."""


@dataclass
class Behaviour:
    """What the policy that wrote a completion said of its tokens; each (tokens,), float32."""

    old: Tensor
    sampled: Tensor | None = None
    ratio: Tensor | None = None
    """Off-policy correction at that time: (tokens,), or (1,) where it is one of the sequence."""
    routes: Tensor | None = None
    """Experts of its updates, (prompt and completion tokens, layers, experts)."""


@dataclass
class Row:
    """One completion, with all that TRL's trainer needs of it."""

    inputs: dict[str, Any]
    """Its row of the data set."""
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    """Text, or messages."""
    logprobs: list[float | None] | None = None
    env_mask: list[int] | None = None
    """1 where the policy wrote, 0 where an environment did."""
    routes: Tensor | None = None
    logged: dict[str, Any] = field(default_factory=dict)
    """What the rewards had to say of it (TRL's `log_extra`)."""
    behaviour: Behaviour | None = None
    """None for a completion of the policy as it is now."""


@dataclass
class Group:
    """One prompt's completions. All ranks hold equal groups, but `rows` are those they wrote."""

    index: int
    """Row of the data set."""
    step: int
    """Optimizer steps taken when it was written."""
    rewards: Tensor
    """(G, F), NaN where a reward does not apply."""
    ranks: list[int]
    """Which rank holds each completion."""
    rows: dict[int, Row] = field(default_factory=dict)
    """Place in the group -> completion, for those that this rank holds."""
    replayed: bool = False


def has_spread(rewards: Tensor, weights: Tensor, column: int | None, apart: bool) -> bool:
    """Tell whether a group's rewards (G, F) differ, so that its advantages are not all zero.

    `column` looks at that reward alone, `apart` at each reward by itself (GDPO normalises them one
    by one); otherwise the weighted sum counts, as in TRL. Completions without any reward are left
    out.
    """
    if column is not None:
        judged = rewards[:, [column]]
    elif apart:
        judged = rewards[:, weights != 0]
    else:
        total = (rewards * weights).nansum(dim=1)
        total[torch.isnan(rewards).all(dim=1)] = torch.nan
        judged = total[:, None]
    for values in judged.unbind(dim=1):
        known = values[~torch.isnan(values)]
        if len(known) > 1 and float(known.max() - known.min()) > SAME:
            return True
    return False


def arrange(groups: Sequence[Group], rows: int, size: int, ranks: int) -> list[Group]:
    """Return the groups of `size` in an order in which few completions change their rank.

    Each rank trains on `rows` completions in a row; where groups lie across ranks nothing is won.
    """
    if ranks == 1 or rows % size:
        return list(groups)
    places: list[list[Group]] = [[] for _ in range(ranks)]
    left = []
    for group in groups:
        home = group.ranks[0]
        stays = set(group.ranks) == {home} and home < ranks and len(places[home]) < rows // size
        (places[home] if stays else left).append(group)
    for place in places:
        while len(place) < rows // size and left:
            place.append(left.pop(0))
    return [group for place in places for group in place]


def rows_of_rank(
    groups: Sequence[Group], rows: int, rank: int, gather: Callable[[list[Any]], list[Any]]
) -> list[Row]:
    """Return the completions that `rank` trains on, fetched from the ranks that hold them.

    Every rank calls this with the same groups; `gather` joins the lists of all ranks, and is not
    called where nothing has to move.
    """
    members = [(group, place) for group in groups for place in range(len(group.ranks))]
    moving = {
        position
        for position, (group, place) in enumerate(members)
        if group.ranks[place] != position // rows
    }
    received: dict[int, Row] = {}
    if moving:
        sent = {
            position: members[position][0].rows[members[position][1]]
            for position in sorted(moving)
            if members[position][0].ranks[members[position][1]] == rank
        }
        for part in gather([sent]):
            received |= part
    own = range(rank * rows, (rank + 1) * rows)
    found = []
    for position in own:
        group, place = members[position]
        found.append(received[position] if position in moving else group.rows[place])
    return found
