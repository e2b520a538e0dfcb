"""Rejection sampling: many completions per prompt, those that pass every threshold are kept."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from r1pipe.artifact import DATASET_DIR, ROWS_FILE, canonical_json, digest, write_aside
from r1pipe.data.jsonl import TEXT_COLUMNS
from r1pipe.data.prompts import Prompt, encode_prompts, render_prompt, wrap_prompt, wrap_row
from r1pipe.data.sources import load_mixed_rows, load_rows, prompts_within
from r1pipe.errors import Problem, StageFailed, UserError, did_you_mean
from r1pipe.rewards.building import build_rewards
from r1pipe.rewards.guarded import FAILURES_FILE, GuardedReward
from r1pipe.rewards.trial import evenly
from r1pipe.rollout.engine import Engine, make_engine, phase_seconds
from r1pipe.rollout.scored import write_and_score
from r1pipe.rollout.shards import Shards
from r1pipe.schema import FewShot, SampleStage, Source
from r1pipe.stages.context import Outcome, StageContext, dropped_prompts
from r1pipe.stages.preflight import MOST_ROWS, reward_problems, template_problems

Row = dict[str, Any]
SHARD_BATCHES = 4  # a piece takes a few seconds: little is lost to a kill, little time to files
TRUNCATED, DUPLICATE, SURPLUS = "truncated", "duplicate", "surplus"
PASS_RATE = "pass_rate"
"""Reasons to leave a completion out, beside the rewards' names."""


def run(context: StageContext) -> Outcome:
    """Sample, score, select; write dataset/rows.jsonl. Continues from whole shards after a kill."""
    stage = context.stage
    assert isinstance(stage, SampleStage)
    _check_keep(stage, [name for name, term in stage.rewards.items() if term is not None])
    rows = load_mixed_rows(stage.data, stage.seed, need={"prompt"})
    examples = _load_examples(stage.few_shot, stage.seed)
    started = time.perf_counter()
    engine = make_engine(stage.rollout, stage.init_from, stage.load)
    ready = time.perf_counter()
    measured, _ = build_rewards(stage.rewards, partial(render_prompt, tokenizer=engine.tokenizer))
    _check_rewards(stage, rows, measured, engine)
    rewards = [GuardedReward(reward, context.workdir / FAILURES_FILE) for reward in measured]
    asked = len(rows)
    rows, prompt_ids = _prompts(stage, rows, examples, engine)
    per_shard = max(1, SHARD_BATCHES * stage.rollout.batch_size // stage.sampling.num_samples)
    chosen = {"sampling": stage.sampling.model_dump(), "rollout": stage.rollout.model_dump()}
    terms = {name: term and term.model_dump() for name, term in stage.rewards.items()}
    key = digest([stage.init_from, stage.seed, chosen, terms, rows, prompt_ids])
    total = len(rows) * stage.sampling.num_samples
    tokens = 0

    def make(index: int) -> list[Row]:
        nonlocal tokens
        first = index * per_shard
        part = slice(first, first + per_shard)
        records = write_and_score(
            engine,
            rows[part],
            prompt_ids[part],
            stage.sampling,
            shard_seed(stage.seed, index),
            rewards,
            stage.data,
            lambda done: context.progress.update(
                "sampling", first * stage.sampling.num_samples + done, total
            ),
        )
        tokens += sum(record["length"] for record in records)
        return [{**record, "row": record["row"] + first} for record in records]

    shards = Shards(context.checkpoints, key).run(-(-len(rows) // per_shard), make)
    timings = phase_seconds(engine, started, ready, tokens)
    engine.close()
    records = [record for shard in shards for record in shard]
    kept, reasons = select(stage, rows, records)
    if len(kept) < stage.min_rows:
        raise StageFailed(_too_few(stage, len(kept), len(records), reasons))
    (context.workdir / DATASET_DIR).mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    write_aside(context.workdir / ROWS_FILE, text)
    return Outcome(
        kind="dataset",
        metrics=_metrics(rows, records, kept, reasons) | dropped_prompts(asked - len(rows)),
        timings=timings,
    )


def shard_seed(seed: int, *which: int | str) -> int:
    """Return the seed of one piece of a sampling job, from the stage's seed and its name."""
    return int(digest([seed, *which])[:8], 16)


def select(
    stage: SampleStage, rows: Sequence[Row], records: Sequence[Row]
) -> tuple[list[Row], Counter[str]]:
    """Return the kept rows, and how often each reason left a completion out.

    A completion that fails several rewards counts for each of them. A row's `pass_rate` is the
    share of its prompt's completions that fail none and were not cut.
    """
    reasons: Counter[str] = Counter()
    per_prompt: dict[str, list[Row]] = {}
    seen: set[tuple[str, str]] = set()
    judged = [
        (record, _prompt_key(rows[record["row"]]), _failed(stage, record)) for record in records
    ]
    rates = pass_rates((prompt, not failed) for _, prompt, failed in judged)
    for record, prompt, failed in judged:
        row, text = rows[record["row"]], clean(record["completion"])
        if not failed and not _wanted(stage, rates[prompt]):
            failed = [PASS_RATE]
        if not failed and (prompt, text) in seen:
            failed = [DUPLICATE]
        reasons.update(failed)
        if not failed:
            seen.add((prompt, text))
            kept_row = _kept_row(row, record, text) | {PASS_RATE: rates[prompt]}
            per_prompt.setdefault(prompt, []).append(kept_row)
    kept = []
    for found in per_prompt.values():
        if stage.prefer == "shortest":
            found.sort(key=lambda row: row["length"])  # stable: the first of equals stays in front
        kept += found[: stage.max_per_prompt]
        reasons[SURPLUS] += len(found[: stage.max_per_prompt]) - len(found)
    reasons[SURPLUS] = -reasons[SURPLUS]
    if stage.max_rows is not None and len(kept) > stage.max_rows:
        reasons[SURPLUS] += len(kept) - stage.max_rows
        # An even draw: the first rows could all be of one task.
        drawn = random.Random(f"{stage.seed} rows").sample(range(len(kept)), stage.max_rows)
        kept = [kept[place] for place in sorted(drawn)]
    return kept, +reasons


def pass_rates(outcomes: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """Return {prompt: share of its completions that passed} of (prompt, passed) pairs."""
    passed: Counter[str] = Counter()
    sampled: Counter[str] = Counter()
    for prompt, good in outcomes:
        sampled[prompt] += 1
        passed[prompt] += good
    return {prompt: passed[prompt] / count for prompt, count in sampled.items()}


def _wanted(stage: SampleStage, rate: float) -> bool:
    return stage.pass_rate is None or stage.pass_rate.min <= rate <= stage.pass_rate.max


def _failed(stage: SampleStage, record: Row) -> list[str]:
    """Return why a completion is no good, whatever others there are."""
    failed = [name for name, least in thresholds(stage).items() if _below(record, name, least)]
    return [*failed, TRUNCATED] if record["truncated"] else failed


def _prompt_key(row: Row) -> str:
    return row["prompt"] if isinstance(row["prompt"], str) else canonical_json(row["prompt"])


def clean(text: str) -> str:
    """Return a completion without white space at its ends and line ends, or two empty lines."""
    text = re.sub(r"[ \t]+\n", "\n", text.strip())
    return re.sub(r"\n{3,}", "\n\n", text)


def _below(record: Row, name: str, least: float) -> bool:
    value = record["rewards"][name]
    return value is not None and value < least


def _kept_row(row: Row, record: Row, text: str) -> Row:
    ours = {name: row[name] for name in TEXT_COLUMNS if name in row and name != "text"}
    return {**ours, "completion": text, "length": record["length"], "rewards": record["rewards"]}


def thresholds(stage: SampleStage) -> dict[str, float]:
    """Return the thresholds that ask for something."""
    return {name: least for name, least in stage.keep.items() if least is not None}


def _check_keep(stage: SampleStage, names: list[str]) -> None:
    problems = [
        Problem(f"keep.{name}", "no reward of this name is measured", did_you_mean(name, names))
        for name in thresholds(stage)
        if name not in names
    ]
    if problems:
        raise UserError(problems)


def _check_rewards(
    stage: SampleStage, rows: list[Row], rewards: Sequence[Any], engine: Engine
) -> None:
    wrapped = [wrap_row(row, stage.data) for row in rows]
    prompts = [row["prompt"] for row in evenly(wrapped, MOST_ROWS)]
    problems = template_problems(prompts, engine.tokenizer, stage.rewards)
    problems += reward_problems(wrapped, engine.tokenizer, stage.rewards, rewards)
    if problems:
        raise UserError(problems)


def _load_examples(few_shot: FewShot | None, seed: int) -> list[Row]:
    if few_shot is None:
        return []
    # Enough to choose from, and few enough to make at once.
    limit = max(64, few_shot.count)
    source = Source(
        path=few_shot.path, split="train", columns={}, limit=limit, options=few_shot.options
    )
    examples = load_rows(source, seed, need={"prompt", "completion"})
    if len(examples) < few_shot.count:
        what = f"{few_shot.count} examples are asked for, `{few_shot.path}` has {len(examples)}"
        raise UserError(Problem("few_shot.count", what))
    return examples


def _prompts(
    stage: SampleStage, rows: list[Row], examples: list[Row], engine: Engine
) -> tuple[list[Row], list[list[int]]]:
    """Return the rows whose prompt fits, and their prompts' token ids with examples in front."""
    prompts: list[Prompt] = []
    for number, row in enumerate(rows):
        prompt = wrap_prompt(row["prompt"], stage.data)
        rng = random.Random(f"{stage.seed} few-shot {number}")
        if stage.few_shot is not None and rng.random() < stage.few_shot.share:
            same = [e for e in examples if e.get("language") == row.get("language")]
            same = same if len(same) >= stage.few_shot.count else examples
            prompt = _with_examples(prompt, rng.sample(same, stage.few_shot.count), stage)
        prompts.append(prompt)
    ids = encode_prompts(prompts, engine.tokenizer)
    if engine.context is None:
        return rows, ids
    kept = prompts_within(ids, engine.context - stage.sampling.max_tokens, stage.data.overlong)
    return [rows[i] for i in kept], [ids[i] for i in kept]


def _with_examples(prompt: Prompt, examples: list[Row], stage: SampleStage) -> Prompt:
    if isinstance(prompt, str):
        shown = (str(wrap_prompt(e["prompt"], stage.data)) + e["completion"] for e in examples)
        return "".join(text.rstrip("\n") + "\n" for text in shown) + prompt
    turns = []
    for example in examples:
        turns.append({"role": "user", "content": example["prompt"]})
        turns.append({"role": "assistant", "content": example["completion"]})
    return [*prompt[:-1], *turns, prompt[-1]]


def _too_few(stage: SampleStage, kept: int, sampled: int, reasons: Mapping[str, int]) -> str:
    worst = max(reasons, key=lambda reason: reasons[reason], default=None)
    text = f"{kept} of {sampled} completions were kept, `min_rows` asks for {stage.min_rows}."
    if worst is None:
        return f"{text} Sample more: raise `data.limit` or `sampling.num_samples`."
    counts = ", ".join(f"{name} {count}" for name, count in Counter(reasons).most_common())
    return (
        f"{text} `{worst}` rejected most ({reasons[worst]}; all: {counts}). "
        "Sample more (`sampling.num_samples`, `data.limit`), lower a threshold in `keep`, "
        "or start from a better model."
    )


def _metrics(
    rows: Sequence[Row], records: Sequence[Row], kept: Sequence[Row], reasons: Mapping[str, int]
) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "sampled": len(records),
        "kept": len(kept),
        "kept_share": len(kept) / len(records),
        "prompts": len(rows),
        "rejected": dict(sorted(reasons.items())),
        "mean_length": sum(row["length"] for row in kept) / max(1, len(kept)),
    }
    for column in ("task", "language"):
        sampled = Counter(str(rows[record["row"]].get(column)) for record in records)
        found: dict[str, int] = defaultdict(int, Counter(str(row.get(column)) for row in kept))
        metrics[f"kept_share_by_{column}"] = {
            name: found[name] / count for name, count in sorted(sampled.items())
        }
    return metrics
