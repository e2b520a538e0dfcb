"""`r1pipe check`: every reward of a recipe on completions of known worth, before a GPU minute."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from r1pipe.cli import Request, find_recipe
from r1pipe.compose import SINGLE, compose_recipe
from r1pipe.errors import Problem, UserError
from r1pipe.plan import Plan, PlannedStage, make_plan
from r1pipe.schema import EvalStage, GrpoStage, PretrainStage, SampleStage
from r1pipe.validate import validate

ROWS = 32
"""Rows of a stage's data that probes are built on; gold data are checked on all rows."""
USAGE = "usage: r1pipe check recipe=FILE [rows=32] [key=value ...]"
Rewarded = GrpoStage | SampleStage | EvalStage


def run_check(arguments: list[str]) -> int:
    """Check the rewards of every stage that has some; returns 0, or 2 with every problem told."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    request, count = _parse(arguments)
    composed, unresolved = compose_recipe(
        request.config_name, request.overrides, request.config_dir
    )
    plan = make_plan(validate(composed, unresolved))
    problems: dict[Problem, list[str]] = {}
    seen: list[Any] = []
    for planned in plan.stages.values():
        stage = planned.stage
        if not isinstance(stage, Rewarded) or not any(stage.rewards.values()):
            continue
        same = (stage.data, stage.rewards, stage.kind == "eval")
        if same in seen and stage.kind == "eval":  # each model's evaluation is the same
            continue
        seen.append(same)
        for problem in _check_stage(plan, planned, count):
            problems.setdefault(problem, []).append(planned.name)
    if not seen:
        raise UserError(Problem(request.config_name, "no stage of this recipe has rewards"))
    if problems:
        raise UserError(_in_stage(problem, stages) for problem, stages in problems.items())
    print("\nall rewards hold on these data")
    return 0


def _in_stage(problem: Problem, stages: Sequence[str]) -> Problem:
    """Return the problem with the stage it is in, and those that have it too."""
    others = f" (so in {', '.join(stages[1:])})" if len(stages) > 1 else ""
    return Problem(f"stages.{stages[0]}: {problem.where}", problem.what + others, problem.hint)


def _parse(arguments: list[str]) -> tuple[Request, int]:
    name, folder, count = SINGLE, None, ROWS
    overrides: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise UserError(Problem(argument, "unknown option", USAGE))
        if not equals or key == "recipe":
            path = find_recipe(value if equals else argument)
            name, folder = path.stem, path.parent
        elif key == "rows":
            if not value.isdecimal() or int(value) < 1:
                raise UserError(Problem("rows", f"`{value}` is not a number of rows", USAGE))
            count = int(value)
        else:
            overrides.append(argument)
    if name == SINGLE and not any(o.startswith("stage=") for o in overrides):
        raise UserError(Problem("check", "no recipe is named", USAGE))
    return Request(name, folder, overrides), count


def _check_stage(plan: Plan, planned: PlannedStage, count: int) -> list[Problem]:
    """Print the table of one stage and return its problems."""
    from functools import partial

    from r1pipe.data.prompts import render_prompt, wrap_row
    from r1pipe.data.sources import load_mixed_rows
    from r1pipe.rewards.building import build_rewards
    from r1pipe.rewards.combining import name_of
    from r1pipe.rewards.trial import evenly, gold_data_problems, try_rewards
    from r1pipe.stages.preflight import cases_of, template_problems, writable_by

    stage = planned.stage
    assert isinstance(stage, Rewarded)
    print(f"\n{planned.name} ({stage.kind})")
    if reason := _not_there_yet(plan, planned):
        print(f"  not checked: {reason}")
        return []
    try:
        tokenizer = _tokenizer(plan, planned)
        rows = load_mixed_rows(stage.data, stage.seed, need={"prompt"})
        rows = [wrap_row(row, stage.data) for row in rows]
        rewards, weights = build_rewards(stage.rewards, partial(render_prompt, tokenizer=tokenizer))
        some = evenly(rows, count)
        problems = template_problems([row["prompt"] for row in some], tokenizer, stage.rewards)
        problems += gold_data_problems(rows, rewards)
        if not problems:
            cases = cases_of(some, tokenizer, stage.rewards)
            encode = partial(_encode, tokenizer)
            trial = try_rewards(some, cases, rewards, writable_by(tokenizer), encode)
            problems = trial.problems
            ends = render_prompt(some[0]["prompt"], tokenizer)[-40:]
            print(f"  {len(some)} of {len(rows)} rows; the model reads a prompt that ends {ends!r}")
            print(_table(trial, dict(zip(map(name_of, rewards), weights, strict=True))))
    except UserError as error:
        problems = error.problems
    return problems


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _not_there_yet(plan: Plan, planned: PlannedStage) -> str | None:
    """Return why the data of a stage cannot be looked at: another stage has not made them."""
    for arrow in planned.inputs:
        if arrow.producer and arrow.wanted == "dataset":
            producer = plan.stages[arrow.producer]
            if producer.action != "skip":
                return f"its data come from `{arrow.producer}`, which has not run"
    return None


def _tokenizer(plan: Plan, planned: PlannedStage) -> Any:
    """Return the tokenizer that the stage's model has, or will have when it is made."""
    from r1pipe.models.building import build_model
    from r1pipe.models.loading import load_tokenizer

    stage: Any = planned.stage
    load = stage.load
    while True:
        arrow = next(a for a in planned.inputs if a.field == "init_from")
        if load.tokenizer is not None or arrow.producer is None:
            return load_tokenizer(arrow.reference, load)
        planned = plan.stages[arrow.producer]
        if planned.action == "skip":
            return load_tokenizer(arrow.reference, load)
        maker = planned.stage
        if isinstance(maker, PretrainStage):
            return build_model(maker, planned.name)[1]


def _table(trial: Any, weights: Mapping[str, float]) -> str:
    """Return probes down, rewards across: the mean, the range where it has one, `x`: wrong."""
    names = list(trial.values)
    lines = [["", *(f"{name} x{weights[name]:g}" for name in names)]]
    for probe in trial.probes:
        cells = [probe.name if probe.kind != "hack" else f"hack: {probe.name}"]
        for name in names:
            values = trial.values[name].get(probe.name)
            cell = _cell(values) if values else "-"
            wrong = (name, probe.name) in trial.broken
            cells.append(f"{cell} x" if wrong else cell)
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(names) + 1)]
    return "\n".join(
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(values: list[float]) -> str:
    low, high = min(values), max(values)
    mean = f"{fmean(values):.2f}"
    return mean if high - low < 0.005 else f"{mean} ({low:.2f}..{high:.2f})"
