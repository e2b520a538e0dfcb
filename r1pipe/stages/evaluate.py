"""Evaluation: every decoding of every row and every reward, with intervals per task and domain."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from r1pipe.artifact import (
    EVALUATION_FILE,
    SAMPLES_FILE,
    WRONG_FILE,
    canonical_json,
    digest,
    write_aside,
)
from r1pipe.data.prompts import encode_prompts, render_prompt, wrap_prompt
from r1pipe.data.sources import load_mixed_rows, prompts_within
from r1pipe.errors import UserError
from r1pipe.report.intervals import summary
from r1pipe.rewards.building import build_rewards
from r1pipe.rewards.combining import name_of
from r1pipe.rewards.guarded import FAILURES_FILE, GuardedReward
from r1pipe.rewards.probes import ANSWER_REWARDS
from r1pipe.rewards.trial import gold_data_problems
from r1pipe.rollout.engine import Engine, make_engine, phase_seconds
from r1pipe.rollout.scored import write_and_score
from r1pipe.rollout.shards import Shards
from r1pipe.schema import EvalStage
from r1pipe.stages.context import Outcome, StageContext, dropped_prompts

Row = dict[str, Any]
SHARD_BATCHES = 4
DATA_SEED = 0  # the problems are the same for every model and every run, whatever its seed
SUFFIX = "_eval"
SHOWN_COLUMNS = ("id", "prompt", "answer", "domain", "task", "language")


def run(context: StageContext) -> Outcome:
    """Write evaluation.json and samples.jsonl. Continues from whole shards after a kill."""
    stage = context.stage
    assert isinstance(stage, EvalStage)
    rows = [_with_id(row) for row in load_mixed_rows(stage.data, DATA_SEED, need={"prompt"})]
    started = time.perf_counter()
    engine = make_engine(stage.rollout, stage.init_from, stage.load)
    ready = time.perf_counter()
    measured, _ = build_rewards(stage.rewards, partial(render_prompt, tokenizer=engine.tokenizer))
    if problems := gold_data_problems(rows, measured):
        raise UserError(problems)
    rewards = [GuardedReward(reward, context.workdir / FAILURES_FILE) for reward in measured]
    asked = len(rows)
    rows, prompt_ids = _prompts(stage, rows, engine)
    work = _Work(context, stage, engine, rewards, rows, prompt_ids)
    results = {name: work.decode(name) for name in stage.decodings}
    timings = phase_seconds(engine, started, ready, work.tokens)
    engine.close()
    evaluation = evaluate(stage, context.name.removesuffix(SUFFIX), rows, results)
    text = json.dumps(evaluation, indent=2, ensure_ascii=False)
    write_aside(context.workdir / EVALUATION_FILE, text + "\n")
    samples = _samples(rows, results, stage.save_samples)
    text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    write_aside(context.workdir / SAMPLES_FILE, text)
    answers = [name_of(r) for r in measured if getattr(r, "like", name_of(r)) in ANSWER_REWARDS]
    text = "".join(
        json.dumps(sample, ensure_ascii=False) + "\n"
        for sample in first_wrong(rows, results, answers, stage.save_samples)
    )
    write_aside(context.workdir / WRONG_FILE, text)
    metrics = {
        f"{name}/{metric}": value["mean"]
        for name, decoding in evaluation["decodings"].items()
        for metric, value in decoding["overall"].items()
    }
    metrics |= dropped_prompts(asked - len(rows))
    return Outcome(kind="evaluation", metrics=metrics, timings=timings)


def _prompts(
    stage: EvalStage, rows: list[Row], engine: Engine
) -> tuple[list[Row], list[list[int]]]:
    """Return the rows whose prompt fits, and their prompts' token ids."""
    ids = encode_prompts([wrap_prompt(row["prompt"], stage.data) for row in rows], engine.tokenizer)
    if engine.context is None:
        return rows, ids
    longest = max((sampling.max_tokens for sampling in stage.decodings.values()), default=0)
    kept = prompts_within(ids, engine.context - longest, stage.data.overlong)
    return [rows[i] for i in kept], [ids[i] for i in kept]


@dataclass
class _Work:
    """One model and the problems it gets; counts the tokens it wrote."""

    context: StageContext
    stage: EvalStage
    engine: Engine
    rewards: Sequence[Any]
    rows: list[Row]
    prompt_ids: list[list[int]]
    written: int = 0
    tokens: int = 0

    def decode(self, name: str) -> list[Row]:
        """Return the records of one decoding, from whole shards where they are there."""
        stage, sampling = self.stage, self.stage.decodings[name]
        per_shard = max(1, SHARD_BATCHES * stage.rollout.batch_size // sampling.num_samples)
        total = sum(len(self.rows) * each.num_samples for each in stage.decodings.values())

        def make(index: int) -> list[Row]:
            first = index * per_shard
            part = slice(first, first + per_shard)
            before = self.written + first * sampling.num_samples
            records = write_and_score(
                self.engine,
                self.rows[part],
                self.prompt_ids[part],
                sampling,
                int(digest([stage.seed, name, index])[:8], 16),
                self.rewards,
                stage.data,
                lambda done: self.context.progress.update(
                    f"evaluating {name}", before + done, total
                ),
            )
            self.tokens += sum(record["length"] for record in records)
            return [{**record, "row": record["row"] + first} for record in records]

        chosen = [sampling.model_dump(), stage.rollout.model_dump(), stage.seed, stage.init_from]
        terms = {reward: term and term.model_dump() for reward, term in stage.rewards.items()}
        shards = Shards(
            self.context.checkpoints / name,
            digest([name, chosen, terms, self.rows, self.prompt_ids]),
        )
        found = shards.run(-(-len(self.rows) // per_shard), make)
        self.written += len(self.rows) * sampling.num_samples
        return [record for shard in found for record in shard]


def evaluate(
    stage: EvalStage, model: str, rows: Sequence[Row], results: dict[str, list[Row]]
) -> dict[str, Any]:
    """Return the content of evaluation.json from the records of every decoding."""
    decodings = {}
    for name, records in results.items():
        values = _per_problem(rows, records)
        decodings[name] = {
            "temperature": stage.decodings[name].temperature,
            "overall": _summaries(range(len(rows)), values),
            "tasks": _grouped("task", rows, values),
            "domains": _grouped("domain", rows, values),
        }
    return {"model": model, "decodings": decodings}


def _per_problem(rows: Sequence[Row], records: Iterable[Row]) -> list[dict[str, float]]:
    """Return {metric: value} of every row; several completions of a row are averaged.

    The problem is the unit of the interval: completions of one problem are not independent.
    """
    found: list[dict[str, list[float]]] = [defaultdict(list) for _ in rows]
    for record in records:
        into = found[record["row"]]
        for metric, value in record["rewards"].items():
            if value is not None:
                into[metric].append(value)
        into["length"].append(float(record["length"]))
        into["truncated"].append(float(record["truncated"]))
    return [{metric: sum(values) / len(values) for metric, values in row.items()} for row in found]


def _grouped(
    column: str, rows: Sequence[Row], values: Sequence[dict[str, float]]
) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row.get(column) is not None:
            groups[row[column]].append(place)
    return {name: _summaries(places, values) for name, places in groups.items()}


def _summaries(
    places: Iterable[int], values: Sequence[dict[str, float]]
) -> dict[str, dict[str, float]]:
    by_metric: dict[str, list[float]] = defaultdict(list)
    for place in places:
        for metric, value in values[place].items():
            by_metric[metric].append(value)
    return {metric: summary(found) for metric, found in by_metric.items()}


def _samples(rows: Sequence[Row], results: dict[str, list[Row]], count: int) -> Iterable[Row]:
    """Yield the first completion of `count` problems per task, the same for every model."""
    by_task: dict[Any, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_task[row.get("task")].append(place)
    chosen = set()
    for places in by_task.values():
        chosen.update(sorted(places, key=lambda p: _hash(rows[p]["id"]))[:count])
    for name, records in results.items():
        done: set[int] = set()
        for record in records:
            place = record["row"]
            if place not in chosen or place in done:
                continue
            done.add(place)
            yield _sample(rows[place], name, record)


def first_wrong(
    rows: Sequence[Row], results: dict[str, list[Row]], answers: Sequence[str], count: int
) -> Iterable[Row]:
    """Yield the first `count` wrong answers per task and decoding, in the order of the test set.

    Wrong is what one of the rewards named in `answers` gives less than 1.
    """
    for name, records in results.items():
        found: dict[Any, int] = defaultdict(int)
        for record in records:
            row = rows[record["row"]]
            values = [record["rewards"].get(answer) for answer in answers]
            if any(value is not None and value < 1 for value in values):
                found[row.get("task")] += 1
                if found[row.get("task")] <= count:
                    yield _sample(row, name, record)


def _sample(row: Row, decoding: str, record: Row) -> Row:
    return {
        **{column: row.get(column) for column in SHOWN_COLUMNS},
        "decoding": decoding,
        "completion": record["completion"],
        "length": record["length"],
        "rewards": record["rewards"],
    }


def _with_id(row: Row) -> Row:
    return row if row.get("id") else {**row, "id": _hash(canonical_json(row["prompt"]))[:12]}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
