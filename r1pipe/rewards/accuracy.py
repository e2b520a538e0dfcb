"""Accuracy reward: the answer, cut out of the completion, against the gold answer."""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, Literal

from r1pipe.rewards.completions import (
    REASONING,
    TAG,
    bad_row,
    checked_by,
    domains_of,
    final_answer,
    gold_of,
    golds_of,
    is_blank,
    prefilled_rows,
    text_of,
)
from r1pipe.rewards.killable import Done, Failed, Outcome, TimedOut, run_all
from r1pipe.rewards.mathematics import BadGold
from r1pipe.rewards.restated import restates
from r1pipe.rewards.text import normalise_number, normalise_text, too_long

log = logging.getLogger(__name__)

Method = Literal["auto", "exact", "math"]
_NAME = "accuracy"
_DECIDE = "r1pipe.rewards.mathematics:decide"
_READ = "r1pipe.rewards.mathematics:require_readable"
_WARM_UP = "r1pipe.rewards.accuracy:warm_up"
_GOLD_LIMITS = 5
"""Times the limit of an answer that reading a gold answer may take: it is done once per run."""
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{")
_BRACE = re.compile(r"[{}]")
_JOINS = re.compile(
    r"(?:\\(?:text|q?quad|lor|land|vee|wedge)(?![A-Za-z])|[^\w.:=]|_|[或和且及]"
    r"|\b(?:or|and|oder|und|ou|et|o|y)\b)*"
)
"""What may stand between boxes of one answer."""


def row_problems(
    rows: Sequence[Mapping[str, Any]],
    *,
    method: Method = "auto",
    timeout: float = 1.0,
    domains: Sequence[str] = (REASONING,),
    **options: Any,
) -> list[tuple[int, str]]:
    """Return (index, what is wrong) of the rows whose gold answer cannot be read."""
    problems: dict[int, str] = {}
    golds: dict[int, str] = {}
    for index, row in enumerate(rows):
        gold = gold_of(row)
        foreign = row.get("database") is not None or (row.get("domain") or REASONING) not in domains
        if gold is None or foreign:
            continue
        try:
            golds[index] = _gold_text(gold)
        except BadGold as error:
            problems[index] = str(error)
    asked = {i: gold for i, gold in golds.items() if not _reads_itself(gold, method)}
    for index, outcome in zip(asked, _read(list(asked.values()), timeout), strict=True):
        if not isinstance(outcome, Done):
            problems[index] = _gold_problem(asked[index], outcome)
    return sorted(problems.items())


@checked_by(row_problems, looks_at="row")
def accuracy_reward(
    completions: Sequence[Any],
    solution: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    *,
    method: Method = "auto",
    timeout: float = 1.0,
    domains: Sequence[str] = (REASONING,),
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""1 for the right answer, 0 for a wrong or missing one; None without gold, outside `domains`.

    Gold is the column `solution`, or `answer` on rows without it: text, or a number; a row with a
    `database` is left to `sql_reward`. The answer is the last `<answer>` block after the reasoning,
    and the last `\boxed{}` in it if it has one; a completion that closed its thinking and has no
    such block may box its answer instead (not with `exact`). Nothing inside the reasoning is ever
    read. An answer that repeats a calculation of the prompt (`84/12`) is none.

    `exact` compares one spelling of each text (`025r0` is `25`); `auto` and `math` also ask whether
    the values are equal; `math` reads every gold answer, even where spelling decides. `timeout`:
    seconds that one comparison may work (see `run_all`); one that takes longer, or fails, is wrong
    and counted in the metrics `rewards/accuracy/timed_out` and `rewards/accuracy/failed`.

    Raises UserError on gold that is empty, neither text nor a finite number, or unreadable.
    """
    count = len(completions)
    of_rows = domains_of(columns, count)
    if set(domains).isdisjoint(of_rows):
        return [None] * count
    golds = golds_of(solution, columns.get("answer"), count, _NAME)
    scripts = columns.get("database") or [None] * count
    opened = prefilled_rows(prefilled, prompts, count)
    rewards: list[float | None] = [None] * count
    open_: dict[int, tuple[str, str]] = {}
    to_read: dict[int, str] = {}
    for index, completion in enumerate(completions):
        if of_rows[index] not in domains or golds[index] is None or scripts[index] is not None:
            continue
        try:
            gold = _gold_text(golds[index])
        except BadGold as error:
            raise bad_row(columns, index, _NAME, str(error)) from None
        if method == "math" and not _reads_itself(gold, method):
            to_read[index] = gold
        answer = answer_in(text_of(completion), opened[index], boxed=method != "exact")
        prompt = prompts[index] if prompts is not None else None
        verdict = _cheap_verdict(answer, gold, prompt, method)
        rewards[index] = float(bool(verdict))
        if verdict is None and answer is not None:
            open_[index] = answer, gold
    for index, outcome in zip(to_read, _read(list(to_read.values()), timeout), strict=True):
        if not isinstance(outcome, Done):
            raise bad_row(columns, index, _NAME, _gold_problem(to_read[index], outcome))
    _settle(rewards, open_, timeout, columns)
    return rewards


def _settle(
    rewards: list[float | None],
    pairs: Mapping[int, tuple[str, str]],
    timeout: float,
    columns: Mapping[str, Any],
) -> None:
    """Fill in the rewards of what spelling alone does not decide: index -> (answer, gold)."""
    outcomes = _decide(list(pairs.values()), timeout)
    for index, outcome in zip(pairs, outcomes, strict=True):
        if isinstance(outcome, Failed) and outcome.kind == BadGold.__name__:
            raise bad_row(columns, index, _NAME, _gold_problem(pairs[index][1], outcome))
        rewards[index] = float(outcome == Done(True))
    _report(outcomes, columns)


def math_equal(answer: str, gold: str, *, timeout: float = 1.0) -> bool:
    """True where `answer` is the value, or the text, that `gold` states; both without tags.

    The verdict of `accuracy_reward` for one answer, by the same workers: False where it takes
    longer than `timeout` seconds. Raises BadGold, never anything on account of `answer`.
    """
    gold = _gold_text(gold)
    verdict = _cheap_verdict(answer, gold, None, "auto")
    if verdict is not None:
        return verdict
    outcome = _decide([(answer, gold)], timeout)[0]
    if isinstance(outcome, Failed) and outcome.kind == BadGold.__name__:
        raise BadGold(outcome.message)
    return outcome == Done(True)


def answer_in(text: str, prefilled: bool = False, boxed: bool = True) -> str | None:
    r"""Return the answer of a completion as `accuracy_reward` does; `boxed`: out of `\boxed`."""
    answer = final_answer(text, prefilled)
    if not boxed:
        return answer
    if answer is None:
        _, closed, tail = text.rpartition("</think>")
        return boxed_answer(tail) if closed and not TAG.search(tail) else None
    inside = boxed_answer(answer)
    return answer if inside is None else inside


def boxed_answer(text: str) -> str | None:
    r"""Return the content of the last `\boxed{…}` whose braces close, or None. Linear time.

    Boxes in a row, with at most `or`, `and` or a comma between them, are one answer of several
    parts: then `text` is returned whole, for the comparison to see what it offers.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    end = _end_of_box(text, boxes[-1].end())
    if end is None:
        return None
    before = _end_of_box(text, boxes[-2].end()) if len(boxes) > 1 else None
    if before is not None and _JOINS.fullmatch(text[before + 1 : boxes[-1].start()]):
        return text
    return text[boxes[-1].end() : end]


def _end_of_box(text: str, start: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return brace.start()
    return None


def warm_up() -> None:
    """Load what a comparison needs, in the process that the workers are forked from."""
    from r1pipe.rewards.mathematics import decide

    for answer, gold in (("\\frac{x^2+1}{2}", "\\sqrt{3}"), ("(1, 2)", "[1, \\infty)")):
        decide(answer, gold)


def _gold_text(gold: Any) -> str:
    """Return a gold answer as text. Raises BadGold where it is none."""
    if isinstance(gold, str) and not is_blank(gold):
        return gold
    try:
        if isinstance(gold, Integral) and not isinstance(gold, bool):
            return str(int(gold))
        if isinstance(gold, Real) and not isinstance(gold, bool) and math.isfinite(gold):
            return f"{Decimal(repr(float(gold))):f}"  # 1e-7 as 0.0000001
    except ValueError:  # Python writes no integers of more than 4,300 digits
        pass
    shown = repr(gold) if isinstance(gold, str | float) else type(gold).__name__
    raise BadGold(f"gold answer is {shown:.100}, neither text nor a number")


def _cheap_verdict(answer: str | None, gold: str, prompt: Any, method: Method) -> bool | None:
    """Return the verdict where spelling alone decides, else None."""
    if answer is None or is_blank(answer) or too_long(answer, gold):
        return False
    given, wanted = _one_spelling(answer), _one_spelling(gold)
    if given == wanted:
        return True
    if method == "exact":
        return False
    number = normalise_number(wanted)
    if number is not None and ("r" in number or normalise_number(given) is not None):
        # Integers in their one spelling, or a quotient with remainder, which is no formula.
        return False
    if prompt is not None and restates(answer, gold, text_of(prompt)):
        return False
    return None


def _one_spelling(text: str) -> str:
    if not text.isascii() and any(map(_is_raised, text)):
        return " ".join(text.split())  # folding would make 52 of 5²
    text = normalise_text(text)
    return normalise_number(text) or text


def _is_raised(char: str) -> bool:
    return unicodedata.decomposition(char).startswith(("<super>", "<sub>", "<fraction>"))


def _reads_itself(gold: str, method: Method) -> bool:
    """True for gold that needs no reading: `exact` compares text, and an integer is readable."""
    return method == "exact" or normalise_number(normalise_text(gold)) is not None


def _decide(pairs: Sequence[tuple[str, str]], timeout: float) -> list[Outcome]:
    return run_all(_DECIDE, pairs, timeout, _WARM_UP) if pairs else []


def _read(golds: Sequence[str], timeout: float) -> list[Outcome]:
    if not golds:
        return []
    return run_all(_READ, [(gold,) for gold in golds], timeout * _GOLD_LIMITS, _WARM_UP)


def _gold_problem(gold: str, outcome: Outcome) -> str:
    if isinstance(outcome, TimedOut):
        return f"gold answer {gold!r:.200} takes too long to read"
    message = outcome.message[:300] if isinstance(outcome, Failed) else "not read"
    return message if "gold answer" in message else f"gold answer {gold!r:.200}: {message}"


def _report(outcomes: Sequence[Outcome], columns: Mapping[str, Any]) -> None:
    """Tell the trainer's metrics, and the log, how many comparisons gave no verdict."""
    failures = Counter(o.message for o in outcomes if isinstance(o, Failed))
    timed_out = sum(isinstance(outcome, TimedOut) for outcome in outcomes)
    if callable(log_metric := columns.get("log_metric")):
        log_metric(f"rewards/{_NAME}/timed_out", float(timed_out))
        log_metric(f"rewards/{_NAME}/failed", float(failures.total()))
    if failures:
        message, times = failures.most_common(1)[0]
        log.warning("%d comparisons failed: %s (%d)", failures.total(), message, times)
