"""Tries every reward on completions of known worth, and says which reward cannot be trusted."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from r1pipe.errors import Problem, UserError
from r1pipe.registry import REWARDS
from r1pipe.rewards.combining import Reward, name_of
from r1pipe.rewards.completions import REASONING, call_arguments
from r1pipe.rewards.probes import ANSWER_REWARDS, Case, Probe, Row, other_forms, probes_of

log = logging.getLogger(__name__)
MOST_NAMED = 5
MOST_PROBED = 32
"""Rows tried with a reward that takes long: one that runs programs, a model, a user's own."""
QUICK = frozenset(("accuracy", "format", "tag_count", "language", "general", "choice", "maze_path"))
LEAST_OF_GOLD = {"language": 0.9}
"""What gold has to earn where the best is out of reach: real text has a foreign name in it."""
TINY = 1e-6
Encode = Callable[[str], list[int]]


@dataclass
class Trial:
    """`values[reward][probe]`: the reward of that probe on each row it applies to."""

    probes: list[Probe] = field(default_factory=list)
    """One of each name, in order of appearance."""
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[tuple[str, str]] = field(default_factory=set)
    """(reward, probe) behind a problem."""


def try_rewards(
    rows: Sequence[Row],
    cases: Sequence[Case],
    rewards: Sequence[Reward],
    writable: Callable[[str], bool],
    encode: Encode | None = None,
) -> Trial:
    """Measure all rewards on all probes of `rows`, whose prompts are as the model gets them.

    A problem is: gold that earns less than the best there is, a hack or a wrong completion that
    earns the best, a reward with one value for everything, and what a reward itself says against
    a row. `encode` gives the token ids that length rewards read.
    """
    trial = Trial()
    own = any(not REWARDS.shipped(name_of(reward)) for reward in rewards)
    asked = [
        (index, probe)
        for index, case in enumerate(cases)
        for probe in (*probes_of(case), *(other_forms(case) if own else ()))
        if probe.kind == "gold" or writable(probe.text)
    ]
    seen: dict[str, Probe] = {}
    for _, probe in asked:
        seen.setdefault(probe.name, probe)
    trial.probes = list(seen.values())
    for reward in rewards:
        _try_one(trial, reward, rows, asked, encode)
    return trial


def _try_one(
    trial: Trial,
    reward: Reward,
    rows: Sequence[Row],
    asked: Sequence[tuple[int, Probe]],
    encode: Encode | None,
) -> None:
    name = name_of(reward)
    if getattr(reward, "like", name) not in QUICK or not REWARDS.shipped(name):
        chosen = set(evenly(range(len(rows)), MOST_PROBED))
        asked = [(index, probe) for index, probe in asked if index in chosen]
    try:
        measured = measure(reward, [(rows[index], probe.text) for index, probe in asked], encode)
    except UserError as error:
        trial.problems += error.problems
        return
    except Exception as error:
        # It may need what only a trainer gives it; if not, the first step will say so.
        log.warning("`%s` not tried out: %s: %s", name, type(error).__name__, error)
        return
    found: dict[str, list[float]] = defaultdict(list)
    lost: list[int] = []
    paid: dict[str, list[int]] = defaultdict(list)
    best, like = getattr(reward, "best", None), getattr(reward, "like", name)
    least = LEAST_OF_GOLD.get(like, best)
    for (index, probe), value in zip(asked, measured, strict=True):
        if value is None:
            continue
        found[probe.name].append(value)
        if best is None or least is None:
            continue
        if probe.kind == "gold" and value < least - TINY:
            lost.append(index)
        elif like in probe.against and value >= best - TINY:
            paid[probe.name].append(index)
    trial.values[name] = dict(found)
    if best is not None:
        _blame(trial, name, best, rows, found, lost, paid)
    if best != 0:  # a penalty is 0 on all that does not deserve it
        trial.problems += _flat_problem(name, found, len(rows))


def _blame(
    trial: Trial,
    name: str,
    best: float,
    rows: Sequence[Row],
    found: Mapping[str, list[float]],
    lost: Sequence[int],
    paid: Mapping[str, list[int]],
) -> None:
    """Write down the gold that is not paid and the hacks that are."""
    if lost:
        trial.broken.add((name, "gold"))
        trial.problems.append(_gold_problem(name, best, rows, lost, len(found["gold"])))
    for probe, at in paid.items():
        trial.broken.add((name, probe))
        trial.problems.append(_hack_problem(name, probe, best, rows, at, len(found[probe])))


def evenly(rows: Any, count: int) -> list[Any]:
    """Return at most `count` of `rows`, evenly spread over them."""
    step = max(1, -(-len(rows) // count))
    return [rows[place] for place in range(0, len(rows), step)]


def measure(
    reward: Reward, asked: Sequence[tuple[Row, str]], encode: Encode | None = None
) -> list[float | None]:
    """Return the reward of (row, completion) pairs, called as TRL's GRPO trainer calls it."""
    if not asked:
        return []
    texts = [text for _, text in asked]
    arguments = call_arguments([row for row, _ in asked], texts)
    if encode is not None:
        arguments["completion_ids"] = [encode(text) for text in texts]
    return reward(**arguments)


def gold_data_problems(rows: Sequence[Row], rewards: Sequence[Reward]) -> list[Problem]:
    """Return which rows have gold data that a reward cannot use, looking at every row."""
    problems = []
    for reward in rewards:
        check = getattr(reward, "row_problems", None)
        found = check(rows) if check is not None else []
        if found:
            told = "; ".join(f"{name_row(rows, at)}: {what}" for at, what in found[:MOST_NAMED])
            more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            what = f"{len(found)} of {len(rows)} rows cannot be rewarded: {told}{more}"
            problems.append(Problem(f"rewards.{name_of(reward)}", what, "mend or drop these rows"))
    return problems or _without_gold(rows, rewards)


def _without_gold(rows: Sequence[Row], rewards: Sequence[Reward]) -> list[Problem]:
    """Return the problem that no reward of the answer applies to some rows of the reasoning kind.

    Rows of other kinds may be left to a reward model, or to their form alone.
    """
    about = [r for r in rewards if getattr(r, "like", name_of(r)) in ANSWER_REWARDS]
    asked = [at for at, row in enumerate(rows) if (row.get("domain") or REASONING) == REASONING]
    if not about or not asked:
        return []
    judged: set[int] = set()
    for reward in about:
        try:
            values = measure(reward, [(rows[at], "") for at in asked])
        except UserError as error:  # a column that is missing altogether
            return error.problems
        judged |= {at for at, value in zip(asked, values, strict=True) if value is not None}
    left = [at for at in asked if at not in judged]
    if not left:
        return []
    told = ", ".join(name_row(rows, at) for at in left[:MOST_NAMED])
    more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
    names = ", ".join(map(name_of, about))
    what = f"{len(left)} of {len(rows)} rows have nothing that {names} could judge by: {told}{more}"
    return [Problem("rewards", what, "give them a gold answer, or drop them")]


def name_row(rows: Sequence[Row], index: int) -> str:
    """Return how a row is called in messages: its id, or its place."""
    row = rows[index]
    return f"row `{row['id']}`" if row.get("id") else f"row {index + 1}"


def _gold_problem(
    name: str, best: float, rows: Sequence[Row], lost: Sequence[int], count: int
) -> Problem:
    told = ", ".join(_row_and_gold(rows, index) for index in lost[:MOST_NAMED])
    more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
    what = f"{len(lost)} of {count} gold answers earn less than {best:g}: {told}{more}"
    hint = "mend or drop these rows, or choose other options of the reward"
    return Problem(f"rewards.{name}", what, hint)


def _hack_problem(
    name: str, probe: str, best: float, rows: Sequence[Row], at: Sequence[int], count: int
) -> Problem:
    what = f"`{probe}` earns {best:g} on {len(at)} of {count} rows: {_row_and_gold(rows, at[0])}"
    hint = "a policy will find this; choose other options, gate the reward, or mend the rows"
    return Problem(f"rewards.{name}", what, hint)


def _flat_problem(name: str, found: Mapping[str, list[float]], rows: int) -> list[Problem]:
    values = {value for probe in found.values() for value in probe}
    if not values:
        log.warning("the reward `%s` applies to none of %d rows", name, rows)
    if len(values) != 1 or "gold" not in found:
        return []
    what = (
        f"the reward is {values.pop():g} on gold answers, wrong answers and empty completions "
        f"alike ({rows} rows): it tells nothing apart"
    )
    hint = "check the columns that it reads (`data.columns`) and its options"
    return [Problem(f"rewards.{name}", what, hint)]


def _row_and_gold(rows: Sequence[Row], index: int) -> str:
    row = rows[index]
    gold = row.get("solution") if row.get("solution") is not None else row.get("answer")
    return f"{name_row(rows, index)} (gold {gold!r})"
