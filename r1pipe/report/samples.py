"""Picks completions worth reading and cuts them into marked pieces; their text is not trusted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.report.collect import plain_text, to_sample
from r1pipe.report.compare import GREEDY, SAMPLED
from r1pipe.report.reading import is_number, read_jsonl
from r1pipe.report.records import RunRecord, Sample, StageRecord

LONGEST_TEXT = 1500
"""Characters of one completion that are shown."""
NEXT_TO_TRAINING = {"step", "prompt", "completion", "advantage"}
_TAG = re.compile(r"(</?(?:think|answer)>)")
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_HAN = r"[\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef\U00020000-\U0003134f]+"
_WORDS = re.compile(rf"(?P<zh>{_HAN})|(?P<en>[A-Za-z]{{2,}}(?:[ '][A-Za-z]{{2,}})*)")


@dataclass(frozen=True)
class Piece:
    """A run of text: `block` is think, answer or plain; `mark` is tag, zh, en or empty."""

    block: str
    mark: str
    text: str


@dataclass(frozen=True)
class Reading:
    """A sample as it is shown: marked pieces, what was left out, and why it was picked."""

    role: str
    sample: Sample
    blocks: list[tuple[str, list[Piece]]]
    left_out: int


@dataclass(frozen=True)
class Pair:
    """The same problem before and after a stage; `before` is None for a first stage."""

    role: str
    before: Reading | None
    after: Reading


@dataclass(frozen=True)
class Journey:
    """One problem through all evaluated models, in chain order."""

    role: str
    """`best`, `median` or `worst` of its task, by mean reward over all models."""
    problem: Sample
    stops: list[tuple[str, Reading]]


def visible(text: str) -> str:
    """Return text in which control and direction characters are shown instead of obeyed."""

    def show(match: re.Match[str]) -> str:
        code = ord(match[0])
        return chr(0x2400 + code) if code < 32 else f"\u27e8U+{code:04X}\u27e9"

    return _CONTROL.sub(show, text)


def pieces(text: str) -> Iterator[Piece]:
    """Cut a completion at its think and answer tags, and mark the languages in between."""
    block = "plain"
    for part in _TAG.split(text):
        if not part:
            continue
        if _TAG.fullmatch(part):
            closing, name = part.startswith("</"), part.strip("</>")
            yield Piece(block if closing else name, "tag", part)
            block = "plain" if closing else name
            continue
        end = 0
        for match in _WORDS.finditer(part):
            if match.start() > end:
                yield Piece(block, "", part[end : match.start()])
            yield Piece(block, match.lastgroup or "", match[0])
            end = match.end()
        if end < len(part):
            yield Piece(block, "", part[end:])


def read(role: str, sample: Sample) -> Reading:
    """Prepare a sample for showing: cut to length, controls made visible, grouped into blocks."""
    text = sample.completion
    shown = visible(text[:LONGEST_TEXT])
    blocks: list[tuple[str, list[Piece]]] = []
    for piece in pieces(shown):
        if not blocks or blocks[-1][0] != piece.block:
            blocks.append((piece.block, []))
        blocks[-1][1].append(piece)
    return Reading(role, sample, blocks, max(0, len(text) - LONGEST_TEXT))


def best_median_worst(samples: Sequence[Sample]) -> list[tuple[str, Sample]]:
    """Return up to three different samples by mean reward; equal ones are told apart by id."""
    ranked = sorted(samples, key=lambda s: (-s.total, s.id))
    if not ranked:
        return []
    places = {0: "best", len(ranked) // 2: "median", len(ranked) - 1: "worst"}
    if len(ranked) == 1:
        return [("only", ranked[0])]
    return [(role, ranked[place]) for place, role in sorted(places.items())]


def before_after(run: RunRecord, stage: StageRecord) -> list[Pair]:
    """Return the stage's best, median and worst sample with what the model said before it.

    Only problems that both models answered count, and of these the reasoning ones where there are
    any; ranked by the reward after the stage.
    """
    decoding = shown_decoding(stage)
    parent = run.stage(stage.start)
    before = {s.id: s for s in parent.samples if s.decoding == decoding} if parent else {}
    after = [s for s in stage.samples if s.decoding == decoding]
    common = [s for s in after if s.id in before] or after
    common = [s for s in common if s.domain == "reasoning"] or common
    return [
        Pair(role, read(role, before[s.id]) if s.id in before else None, read(role, s))
        for role, s in best_median_worst(common)
    ]


def shown_decoding(stage: StageRecord) -> str:
    """Return T=1 where it was sampled (training samples the same way), else greedy, else any."""
    found = {sample.decoding for sample in stage.samples}
    for name in (SAMPLED, GREEDY):
        if name in found:
            return name
    return min(found, default="")


def journeys(run: RunRecord) -> list[Journey]:
    """Return a few problems of every task as each model answered them, T=1 where sampled.

    Per task: the problems of best, median and worst mean reward over all models. Reasoning first.
    """
    stages = [stage for stage in run.models if stage.samples]
    answers: dict[str, dict[str, Sample]] = {}
    for stage in stages:
        decoding = shown_decoding(stage)
        for sample in stage.samples:
            if sample.decoding == decoding:
                answers.setdefault(sample.id, {})[stage.name] = sample
    most = max((len(found) for found in answers.values()), default=0)
    by_task: dict[str, list[tuple[float, str]]] = {}
    for problem, found in answers.items():
        if len(found) == most:
            mean = sum(s.total for s in found.values()) / len(found)
            task = next(iter(found.values())).task
            by_task.setdefault(task, []).append((mean, problem))
    picked: list[tuple[str, str]] = []
    for ranked in map(sorted, by_task.values()):
        places = {len(ranked) // 2: "median", len(ranked) - 1: "best", 0: "worst"}
        picked += [(role, ranked[place][1]) for place, role in places.items()]
    found = [
        Journey(
            role,
            next(iter(answers[problem].values())),
            [(name, read("", sample)) for name, sample in answers[problem].items()],
        )
        for role, problem in picked
    ]
    return sorted(found, key=lambda journey: journey.problem.domain != "reasoning")


def first_wrong(stage: StageRecord, per_task: int = 2) -> list[tuple[str, list[Reading]]]:
    """Return (decoding, the first wrong answers of every task) for each decoding with any."""
    found: dict[str, dict[str, list[Sample]]] = {}
    for sample in stage.wrong:
        found.setdefault(sample.decoding, {}).setdefault(sample.task, []).append(sample)
    return [
        (decoding, [read(task, s) for task, wrong in tasks.items() for s in wrong[:per_task]])
        for decoding, tasks in found.items()
    ]


def kept_samples(stage: StageRecord, count: int = 3) -> list[Reading]:
    """Return a few rows of the data set that a sampling stage left: first, middle, last."""
    if stage.path is None:
        return []
    rows = list(read_jsonl(stage.path / "dataset" / "rows.jsonl"))
    places = sorted({round(i * (len(rows) - 1) / max(1, count - 1)) for i in range(count)})
    return [read("kept", to_sample(rows[place])) for place in places if rows]


def training_samples(stage: StageRecord) -> list[tuple[int, list[Reading]]]:
    """Return best, median and worst of the first, middle and last logged step of a GRPO stage."""
    if stage.path is None:
        return []
    files = sorted((stage.path / "completions").glob("*.parquet"))
    places = sorted({0, len(files) // 2, len(files) - 1} if files else set())
    found = []
    for place in places:
        rows = _parquet(files[place])
        samples = [_training_sample(stage, number, row) for number, row in enumerate(rows)]
        if samples:
            readings = [read(role, sample) for role, sample in best_median_worst(samples)]
            found.append((samples[0].step or 0, readings))
    return found


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException):
        return []


def _training_sample(stage: StageRecord, number: int, row: dict[str, Any]) -> Sample:
    terms = stage.config.get("rewards")
    terms = terms if isinstance(terms, dict) else {}
    names = [name for name in row if name in terms]
    if not names:
        skipped = NEXT_TO_TRAINING
        names = [n for n, v in row.items() if n not in skipped and is_number(v)]
    rewards = {name: float(row[name]) if is_number(row[name]) else None for name in names}
    total = 0.0
    for name, value in rewards.items():
        weight = (terms.get(name) or {}).get("weight", 1.0)
        total += (value or 0.0) * (weight if is_number(weight) else 1.0)
    completion, step = plain_text(row.get("completion")), row.get("step")
    return Sample(
        id=f"{number:06d}",
        prompt=plain_text(row.get("prompt")),
        answer=plain_text(row.get("answer")),
        domain=plain_text(row.get("domain")),
        task=plain_text(row.get("task")),
        language=plain_text(row.get("language")),
        decoding="training",
        completion=completion,
        length=None,
        rewards=rewards,
        total=total,
        step=step if isinstance(step, int) else None,
    )
