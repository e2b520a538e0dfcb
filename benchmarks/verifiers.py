"""How often our verifiers are wrong, on labelled cases, beside math-verify and TRL.

    python benchmarks/verifiers.py          (make reward-report)

Prints the tables, writes docs/verifiers.md, and the summary between the markers of README.md.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from peer_verifiers import judge, math_verify_alone, trl_accuracy

from r1pipe.errors import UserError
from r1pipe.rewards import accuracy_reward, code_reward, language_consistency

ROOT = Path(__file__).parent.parent
CASES = ROOT / "tests" / "rewards" / "cases"
TRACE = "r1pipe_trace"
BEGIN, END = "<!-- verifiers: begin -->", "<!-- verifiers: end -->"


@dataclass
class Score:
    """Verdicts on one category: how many of which label, and which are wrong."""

    right: int = 0
    """Cases whose label is 1."""
    wrong: int = 0
    false_negatives: list[str] = field(default_factory=list)
    false_positives: list[str] = field(default_factory=list)
    undecided: int = 0
    """No verdict: raised, hung, killed. They count as 0 too."""
    seconds: list[float] = field(default_factory=list)

    def add(self, name: str, label: bool, verdict: bool | None, seconds: float) -> None:
        if label:
            self.right += 1
        else:
            self.wrong += 1
        if verdict is None:
            self.undecided += 1
        if label and not verdict:
            self.false_negatives.append(name)
        if not label and verdict:
            self.false_positives.append(name)
        self.seconds.append(seconds)


Scores = dict[str, Score]


def main() -> None:
    """Measure, print, write."""
    math = load_lines(*sorted(CASES.glob("math*.jsonl")))
    pairs = [(answer_of(case), case["gold"]) for case in math]
    rated = {"r1pipe": scored(math, ours(pairs))}
    for name, verifier in (("math-verify", math_verify_alone), ("TRL", trl_accuracy)):
        print(f"{name} ...", file=sys.stderr)
        rated[name] = scored(math, judge(verifier, pairs))
    language = language_scores(load_lines(*sorted(CASES.glob("language*.jsonl"))))
    before = {process.pid for process in psutil.process_iter()}
    programs = program_scores(load_programs(*sorted(CASES.glob("programs*.yaml"))))
    left_behind = f"{processes_left(before)} processes, {files_left()} files"
    text = report(rated, language, programs, left_behind)
    print(text)
    (ROOT / "docs" / "verifiers.md").write_text(text, encoding="utf-8")
    put_in_readme(summary(rated, language, programs))


def load_lines(*paths: Path) -> list[dict[str, Any]]:
    """Return the cases of JSONL files."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line]


def load_programs(*paths: Path) -> list[dict[str, Any]]:
    """Return the cases of YAML files."""
    return [case for path in paths for case in yaml.safe_load(path.read_text())]


def answer_of(case: dict[str, Any]) -> str:
    """Return the answer of a case; long ones are written as a piece and a count."""
    if "answer_repeat" in case:
        piece, count = case["answer_repeat"]
        return piece * count
    return case["answer"]


def completed(answer: str) -> str:
    """Return a completion with this answer."""
    return f"<think>so</think><answer>{answer}</answer>"


def ours(pairs: Sequence[tuple[str, str]]) -> list[tuple[bool | None, float]]:
    """Return (verdict, seconds) of each pair by `accuracy_reward`, one call each."""
    accuracy_reward(completions=[completed("x+1")], solution=["1+x"])  # starts the workers
    verdicts = []
    for answer, gold in pairs:
        started = time.perf_counter()
        try:
            (value,) = accuracy_reward(completions=[completed(answer)], solution=[gold])
        except UserError:  # gold that cannot be read is refused before training
            value = None
        verdict = None if value is None else value == 1.0
        verdicts.append((verdict, time.perf_counter() - started))
    return verdicts


def scored(
    cases: Sequence[dict[str, Any]], verdicts: Iterable[tuple[bool | None, float]]
) -> Scores:
    """Return the score of each category."""
    scores: Scores = defaultdict(Score)
    for case, (verdict, seconds) in zip(cases, verdicts, strict=True):
        scores[case["category"]].add(case["id"], case["equal"], verdict, seconds)
    return scores


def language_scores(cases: Sequence[dict[str, Any]]) -> Scores:
    """Rate the language reward: above the bounds is a false positive, below a false negative."""
    scores: Scores = defaultdict(Score)
    language_consistency("one two three", "en")  # loads the identifier
    for case in cases:
        started = time.perf_counter()
        value = language_consistency(case["text"], case["language"])
        seconds = time.perf_counter() - started
        score = scores[case["category"]]
        score.add(case["id"], False, value > case["high"] + 1e-9, seconds)
        if value < case["low"] - 1e-9:
            score.false_negatives.append(case["id"])
    return scores


def program_scores(cases: Sequence[dict[str, Any]]) -> Scores:
    """Rate the code reward, all programs in one batch; seconds are the batch's, shared out."""
    texts = [completed(f"```python\n{case['program']}\n```") for case in cases]
    tests = [case["verification"] for case in cases]
    started = time.perf_counter()
    values = code_reward(completions=texts, verification=tests)
    each = (time.perf_counter() - started) / len(cases)
    scores: Scores = defaultdict(Score)
    for case, value in zip(cases, values, strict=True):
        kind = "honest" if case["honest"] else "hostile or wrong"
        scores[f"{kind}: {case['category']}"].add(case["id"], case["honest"], value == 1.0, each)
    return scores


def processes_left(before: set[int]) -> int:
    """Count the processes that are new, alive a second later, and orphans or of a sandbox's user.

    The sandbox's own server is neither.
    """
    time.sleep(1.0)
    left = 0
    for process in psutil.process_iter(["ppid", "uids"]):
        uids = process.info["uids"]
        stranger = uids is not None and uids.real != os.getuid()
        left += process.pid not in before and (process.info["ppid"] == 1 or stranger)
    return left


def files_left() -> int:
    """Count the files that the programs were to leave outside, all with TRACE in their names."""
    places = {Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.home(), Path.cwd(), ROOT}
    return sum(1 for place in places for path in place.glob("*") if TRACE in path.name)


def total(scores: Scores) -> Score:
    """Return all categories as one."""
    whole = Score()
    for score in scores.values():
        whole.right += score.right
        whole.wrong += score.wrong
        whole.undecided += score.undecided
        whole.false_negatives += score.false_negatives
        whole.false_positives += score.false_positives
        whole.seconds += score.seconds
    return whole


def report(rated: dict[str, Scores], language: Scores, programs: Scores, left_behind: str) -> str:
    """Return docs/verifiers.md."""
    parts = [
        "# How often the verifiers are wrong",
        "Written by `make reward-report` from the labelled cases in tests/rewards/cases/. A false "
        "positive is a reward for what is wrong, a false negative none for what is right; no "
        "verdict (an exception, a hang, a kill) counts as 0. r1pipe gets the completion "
        "`<think>...</think><answer>...</answer>` and the bare gold; math-verify and TRL get the "
        "answer and the gold boxed, which suits them best (sentences and what is delimited stay as "
        "they are), and 3 s a case before they are killed. r1pipe's errors on these cases were "
        "mended since; tests/rewards/cases/README.md has the first run of each set.",
        summary(rated, language, programs),
        "## Mathematics",
        math_table(rated),
        "## Language consistency",
        "A text counts as wrong when its share lies above (false positive) or below (false "
        "negative) the bounds that its writer gave it.",
        plain_table(language),
        "## Programs",
        plain_table(programs),
        f"Left behind by all of them: {left_behind}.",
    ]
    return "\n\n".join(parts) + "\n"


def summary(rated: dict[str, Scores], language: Scores, programs: Scores) -> str:
    """Return the table that the README shows."""
    rows = [["verifier", "cases", "false positives", "false negatives", "no verdict",
             "median", "slowest"]]  # fmt: skip
    for name, scores in rated.items():
        rows.append([f"mathematics: {name}", *figures(total(scores))])
    rows.append(["language consistency", *figures(total(language), of_all=True)])
    rows.append(["programs in the sandbox", *figures(total(programs))])
    return markdown(rows)


def figures(score: Score, of_all: bool = False) -> list[str]:
    """Return the cells of one row."""
    cases = score.right + score.wrong
    wrong, right = (cases, cases) if of_all else (score.wrong, score.right)
    times = sorted(score.seconds)
    return [
        str(cases),
        rate(len(score.false_positives), wrong),
        rate(len(score.false_negatives), right),
        str(score.undecided),
        f"{1000 * times[len(times) // 2]:.2f} ms",
        f"{times[-1]:.2f} s",
    ]


def rate(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.1f} %)" if of else "-"


def math_table(rated: dict[str, Scores]) -> str:
    """Return false positives and negatives of each category and verifier, with our errors named."""
    head = ["category", "right", "wrong"]
    for name in rated:
        head += [f"{name} FP", "FN", "none"]
    rows = [[*head, "ms", "errors of ours"]]
    for category, score in sorted(rated["r1pipe"].items()):
        cells = [category, str(score.right), str(score.wrong)]
        for scores in rated.values():
            one = scores[category]
            cells += [str(len(one.false_positives)), str(len(one.false_negatives))]
            cells.append(str(one.undecided))
        named = ", ".join([*score.false_positives, *score.false_negatives])
        rows.append([*cells, f"{1000 * sum(score.seconds) / len(score.seconds):.1f}", named])
    return markdown(rows)


def plain_table(scores: Scores) -> str:
    """Return the figures of each category of one verifier."""
    rows = [["category", "cases", "false positives", "false negatives", "ms", "errors"]]
    for category, score in sorted(scores.items()):
        named = ", ".join([*score.false_positives, *score.false_negatives])
        mean = 1000 * sum(score.seconds) / len(score.seconds)
        wrong = [str(len(score.false_positives)), str(len(score.false_negatives))]
        rows.append([category, str(score.right + score.wrong), *wrong, f"{mean:.2f}", named])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def put_in_readme(table: str) -> None:
    """Replace what stands between the markers of README.md."""
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
