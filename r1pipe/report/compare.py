"""What each model gained: differences of measured means with their intervals, in chain order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from r1pipe.report.records import Estimate, RunRecord, StageRecord

GREEDY, SAMPLED = "greedy", "t1"
DECODING_TITLES = {GREEDY: "greedy", SAMPLED: "T=1"}
OPERATION_SIGNS = {"add": "+", "sub": "−", "mul": "×", "div": "÷"}


@dataclass(frozen=True)
class Change:
    """A difference of two means with its 95 % interval (the unit is that of the means)."""

    against: str
    value: float
    low: float
    high: float

    @property
    def beyond(self) -> bool:
        """True where the interval does not hold zero."""
        return self.low > 0 or self.high < 0

    @property
    def mark(self) -> str:
        """`▲` for a gain and `▼` for a loss beyond the interval, `·` for a change within it."""
        if not self.beyond:
            return "·"
        return "▲" if self.value > 0 else "▼"


@dataclass(frozen=True)
class GainsRow:
    """One model in one decoding; None where something was not measured."""

    stage: StageRecord
    decoding: str
    start: str | None
    accuracy: Estimate | None
    operations: dict[str, Estimate]
    general: Estimate | None
    others: dict[str, Estimate]
    """Accuracy on domains beside reasoning and general tasks, such as `out_of_range`."""
    format: Estimate | None
    language: Estimate | None
    length: Estimate | None
    change: Change | None
    """Against the stage whose weights it was trained from."""
    from_base: Change | None
    """Against the first stage of those weights."""


def difference(after: Estimate | None, before: Estimate | None, against: str) -> Change | None:
    """Return `after - before` with the interval of Newcombe's hybrid score method.

    It needs nothing but the two intervals (Statistics in Medicine 17:873, method 10). The two
    samples count as independent, which is cautious: both models answered the same problems.
    """
    if after is None or before is None:
        return None
    value = after.mean - before.mean
    down = math.hypot(after.mean - after.low, before.high - before.mean)
    up = math.hypot(after.high - after.mean, before.mean - before.low)
    return Change(against, value, value - down, value + up)


def gains(run: RunRecord, decoding: str) -> list[GainsRow]:
    """Return one row per model stage, measured or not, in chain order."""
    return [_row(run, stage, decoding) for stage in run.models]


def _row(run: RunRecord, stage: StageRecord, name: str) -> GainsRow:
    decoding = stage.decoding(name)
    reasoning = decoding.scope("reasoning") if decoding else {}
    accuracy = decoding.accuracy if decoding else None
    root = run.root(stage)
    return GainsRow(
        stage=stage,
        decoding=name,
        start=stage.start,
        accuracy=accuracy,
        operations=operations(run, stage, name),
        general=decoding.general if decoding else None,
        others={
            domain: scores["accuracy"]
            for domain, scores in (decoding.domains if decoding else {}).items()
            if domain not in ("reasoning", "general") and "accuracy" in scores
        },
        format=reasoning.get("format"),
        language=reasoning.get("language"),
        length=reasoning.get("length"),
        change=_change(accuracy, run.stage(stage.start), name),
        from_base=_change(accuracy, root if root is not stage else None, name),
    )


def _change(after: Estimate | None, before: StageRecord | None, name: str) -> Change | None:
    decoding = before.decoding(name) if before else None
    return difference(after, decoding.accuracy, before.name) if decoding and before else None


def decodings(run: RunRecord) -> list[str]:
    """Return the decodings that were measured: greedy and T=1 first, others by name."""
    found = {name for stage in run.models for name in stage.evaluation}
    return [n for n in (GREEDY, SAMPLED) if n in found] + sorted(found - {GREEDY, SAMPLED})


def decoding_title(name: str) -> str:
    return DECODING_TITLES.get(name, name)


def reasoning_tasks(run: RunRecord) -> list[str]:
    """Return the tasks scored by accuracy whose rows are of the reasoning domain, in order."""
    other = {
        sample.task
        for stage in run.models
        for sample in stage.samples
        if sample.domain not in ("", "reasoning")
    }
    tasks: dict[str, None] = {}
    for stage in run.models:
        for decoding in stage.evaluation.values():
            for task, metrics in decoding.tasks.items():
                if "accuracy" in metrics and task not in other:
                    tasks[task] = None
    known = [t for t in OPERATION_SIGNS if t in tasks]
    return known + [t for t in tasks if t not in known]


def other_domains(run: RunRecord) -> list[str]:
    """Return the domains beside reasoning and general tasks whose answers were scored."""
    found = (row.others for name in decodings(run) for row in gains(run, name))
    return list(dict.fromkeys(domain for others in found for domain in others))


def task_title(task: str) -> str:
    return OPERATION_SIGNS.get(task, task.replace("_", " "))


def operations(run: RunRecord, stage: StageRecord, name: str) -> dict[str, Estimate]:
    decoding = stage.decoding(name)
    if decoding is None:
        return {}
    return {
        task: decoding.tasks[task]["accuracy"]
        for task in reasoning_tasks(run)
        if "accuracy" in decoding.tasks.get(task, {})
    }


def headline(run: RunRecord) -> str:
    """Return the verdict of a run in one sentence."""
    final = run.final
    models = run.models
    open_stages = [s for s in run.stages if s.status != "complete"]
    if final is None:
        done = sum(s.status == "complete" for s in run.stages)
        return f"{done} of {len(run.stages)} stages are complete; no model has been evaluated yet."
    name = SAMPLED if final.decoding(SAMPLED) else next(iter(final.evaluation))
    rows = {row.stage.name: row for row in gains(run, name)}
    row, root = rows[final.name], run.root(final)
    how = decoding_title(name)
    words = []
    if row.from_base is not None and row.accuracy is not None:
        before = rows[root.name].accuracy
        start = f"{100 * before.mean:.1f}" if before else "?"
        words.append(
            f"From {start} % ({root.name}) to {100 * row.accuracy.mean:.1f} % ({final.name}) "
            f"of held-out problems at {how}: {points(row.from_base)}"
        )
    elif row.accuracy is not None:
        words.append(f"{final.name}: {100 * row.accuracy.mean:.1f} % at {how}")
    trained = [r for r in rows.values() if r.change is not None]
    gained = sum(1 for r in trained if r.change and r.change.beyond and r.change.value > 0)
    if trained:
        words.append(
            f"{gained} of {len(trained)} trained stages gained more than the 95 % interval"
        )
    if open_stages:
        words.append(f"{len(open_stages)} of {len(run.stages)} stages are not complete")
    unmeasured = sum(1 for s in models if s.status == "complete" and not s.evaluation)
    if unmeasured:
        words.append(f"{unmeasured} finished models are not evaluated")
    return "; ".join(words) + "."


def points(change: Change) -> str:
    """Return `+47.2 points (45.9 to 48.5)`."""
    return f"{100 * change.value:+.1f} points ({100 * change.low:.1f} to {100 * change.high:.1f})"


def total_seconds(run: RunRecord) -> float:
    """Seconds of all stages and evaluations, added up."""
    return sum(stage.seconds or 0.0 for stage in run.every_stage)


def elapsed_seconds(run: RunRecord) -> float | None:
    """Seconds from the first stage's start to the last one's end, pauses included."""
    starts, ends = [], []
    for stage in run.every_stage:
        try:
            end = datetime.fromisoformat(stage.created or "").timestamp()
        except ValueError:
            continue
        ends.append(end)
        starts.append(end - (stage.seconds or 0.0))
    return max(ends) - min(starts) if ends else None


def duration(seconds: float | None) -> str:
    """Return `48.2 s`, `3 min 05 s` or `2 h 07 min`; an en dash for None."""
    if seconds is None:
        return "–"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short_count(number: float | None) -> str:
    """Return `26.1 k`, `1.54 B`; an en dash for None."""
    if number is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"


@dataclass(frozen=True)
class TimeRow:
    """Where one stage's time went; seconds, bytes, tokens per second."""

    name: str
    kind: str
    wall: float | None
    phases: dict[str, float]
    tokens_per_second: float | None
    peak_bytes: float | None
    attempts: int | None


PHASES = {
    "start-up": ("startup_s", "setup_s", "import_s", "load_s"),
    "training": ("train_s", "training_s"),
    "generation": ("generate_s", "generation_s", "rollout_s", "sampling_s", "evaluation_s"),
    "weights": ("sync_s", "check_s"),
    "scoring": ("reward_s", "score_s"),
    "saving": ("save_s",),
}


NOT_PHASES = ("wall_s", "cpu_s")


def time_rows(run: RunRecord) -> list[TimeRow]:
    """Return where the time went, stage by stage, each evaluation after its model."""
    rows = []
    for stage in run.stages:
        rows += [time_row(s) for s in (stage, stage.evaluation_stage) if s and s.timings]
    return rows


def phase_names(rows: list[TimeRow]) -> list[str]:
    """Return the phases of all rows, the known ones first, `other` last."""
    found = dict.fromkeys(phase for row in rows for phase in row.phases)
    known = list(PHASES)
    return sorted(found, key=lambda p: (p == "other", known.index(p) if p in known else len(known)))


def time_row(stage: StageRecord) -> TimeRow:
    timings = stage.timings
    phases = {}
    for phase, keys in PHASES.items():
        found = [timings[key] for key in keys if key in timings]
        if found:
            phases[phase] = sum(found)
    known = {key for keys in PHASES.values() for key in keys}
    for key, value in timings.items():
        if key.endswith("_s") and key not in known and key not in NOT_PHASES:
            phases[key.removesuffix("_s").replace("_", " ")] = value
    other = timings.get("wall_s", 0.0) - sum(phases.values())
    if phases and other >= 0.05:
        phases["other"] = other
    speeds = [r["tokens_per_second"] for r in stage.history if r.get("tokens_per_second")]
    speed = timings.get("tokens_per_second") or (sum(speeds) / len(speeds) if speeds else None)
    return TimeRow(
        stage.name,
        stage.kind,
        timings.get("wall_s"),
        phases,
        speed,
        timings.get("peak_rss_bytes"),
        stage.attempts,
    )
