"""Reads a completion: its text, its chain of thought, its answer; and the columns of its row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from r1pipe.errors import Problem, UserError

REASONING, GENERAL = "reasoning", "general"

TAG = re.compile(r"</?(?:think|answer)>")
"""Any of the four tags. Nothing in it repeats, so a scan is linear in the text."""


def text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a completion: a string, or what the assistant says in a message list."""
    if isinstance(completion, str):
        return completion
    return "".join(_content_of(message) for message in completion if message.get("role") != "tool")


def _content_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Hangul fillers and the empty Braille cell: printable, and nothing to be seen."""


def is_blank(text: str) -> bool:
    """True where nothing can be seen: white space, control, zero-width and filler characters."""
    return not any(c.isprintable() and not c.isspace() and c not in _FILLERS for c in text)


def final_answer(text: str, prefilled: bool = False) -> str | None:
    """Return the content of the last `<answer>` block outside the reasoning, or None.

    Everything before a `</think>` is reasoning, whether or not a `<think>` opened it, and so is
    what follows a `<think>` that is never closed. `prefilled`: the template opened the block.
    """
    answer, start, thinking = None, None, prefilled
    for match in TAG.finditer(text):
        tag = match.group()
        if tag == "</think>":
            answer, start, thinking = None, None, False
        elif tag == "<think>":
            start, thinking = None, True
        elif tag == "<answer>":
            start = None if thinking else match.end()
        elif start is not None:
            answer, start = text[start : match.start()], None
    return answer


def chain_of_thought(text: str, prefilled: bool = False) -> str | None:
    """Return the reasoning: everything up to the last `</think>`, tags left out; None without any.

    A completion that was cut short has no `</think>`: then it is what follows the `<think>`, or
    the whole text where the template opened the block (`prefilled`).
    """
    end = text.rfind("</think>")
    if end >= 0:
        return TAG.sub(" ", text[:end])
    start = text.find("<think>")
    if start >= 0 or prefilled:
        return TAG.sub(" ", text[max(start, 0) :])
    return None


def opens_thinking(prompt: Any) -> bool:
    """Return whether a prompt ends inside a `<think>` that it opened itself.

    A message list tells it by its last message, where the assistant has that one; what a chat
    template adds to it, only the rendered prompt can tell.
    """
    if prompt is None:
        return False
    if not isinstance(prompt, str):
        prompt = text_of(prompt[-1:]) if prompt and prompt[-1].get("role") == "assistant" else ""
    return prompt.rstrip().endswith("<think>")


def prefilled_rows(
    prefilled: bool | Sequence[bool] | None, prompts: Sequence[Any] | None, count: int
) -> list[bool]:
    """Return for each row whether its prompt opened `<think>`: as told, else as the prompt says."""
    if prefilled is None:
        return [opens_thinking(prompt) for prompt in prompts] if prompts else [False] * count
    return [prefilled] * count if isinstance(prefilled, bool) else list(prefilled)


def column(columns: Mapping[str, Any], name: str, count: int, reward: str) -> Sequence[Any]:
    """Return the column `name`, one value per completion; raises UserError without it."""
    values = columns.get(name)
    if values is None:
        raise UserError(
            Problem(f"reward.{reward}", f"the data has no column `{name}`", f"map it in {_MAPPING}")
        )
    if len(values) != count:
        raise ValueError(f"column `{name}` has {len(values)} values for {count} completions")
    return values


def golds_of(
    solution: Sequence[Any] | None, answer: Sequence[Any] | None, count: int, reward: str
) -> Sequence[Any]:
    """Return the gold of each row: `solution`, or `answer` (r1pipe's name) on rows without it.

    Raises UserError where the data have neither column.
    """
    if solution is None and answer is None:
        what = "the data have neither a column `solution` nor `answer`"
        raise UserError(Problem(f"reward.{reward}", what, f"map one in {_MAPPING}"))
    given = {"solution": answer if solution is None else solution}
    golds = column(given, "solution", count, reward)
    if solution is None or answer is None:
        return golds
    return [other if gold is None else gold for gold, other in zip(golds, answer, strict=True)]


def gold_of(row: Mapping[str, Any]) -> Any:
    """Return the gold of one row, as `golds_of` does."""
    return row.get("answer") if row.get("solution") is None else row.get("solution")


def domains_of(columns: Mapping[str, Any], count: int) -> list[str]:
    """Return the domain of each row; a row that names none is a reasoning row."""
    return [domain or REASONING for domain in columns.get("domain") or [None] * count]


def bad_row(columns: Mapping[str, Any], index: int, reward: str, what: str) -> UserError:
    """Return the error for a row whose data, not whose completion, is at fault."""
    ids = columns.get("id")
    where = f"row `{ids[index]}`" if ids is not None else f"row {index} of the batch"
    return UserError(Problem(f"reward.{reward}", f"{where}: {what}"))


NOT_COLUMNS = ("prompt", "completion", "completions", "prompts")
"""Of a row, what reaches a reward in another form than as a column."""


def call_arguments(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str]
) -> dict[str, Sequence[Any]]:
    """Return the arguments TRL's GRPO trainer gives a reward for `texts`, one per row.

    Prompts of messages get completions of messages. Rows may differ in their columns.
    """
    prompts = [row.get("prompt") for row in rows]
    completions: list[Any] = list(texts)
    if prompts and not isinstance(prompts[0], str):
        completions = [[{"role": "assistant", "content": text}] for text in texts]
    names = dict.fromkeys(name for row in rows for name in row if name not in NOT_COLUMNS)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {"completions": completions, "prompts": prompts, **columns}


_MAPPING = "`data.columns` (our column -> the data set's)"

RowCheck = Callable[..., list[tuple[int, str]]]
"""`(rows, **options)`: (index, what is wrong) of the rows whose gold data a reward cannot use."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


LooksAt = Literal["row", "prompt"]
"""What a reward needs to know to judge a completion: its `row` alone, or all completions of its
`prompt` in the call. Such a reward may be asked for parts of a batch, from another thread; what it
logs as metrics must then add up. Without a word on it, it sees whole batches, in the trainer's."""


def checked_by(
    check: RowCheck | None, best: float | None = 1.0, looks_at: LooksAt | None = None
) -> Callable[[_Function], _Function]:
    """Decorate a reward with the check of its rows, which runs before training.

    `best` is what the best completion earns: 0 for a penalty, None where no one value is the best.
    """

    def attach(reward: _Function) -> _Function:
        # A function's type has no such attributes.
        setattr(reward, "best", best)  # noqa: B010
        setattr(reward, "looks_at", looks_at)  # noqa: B010
        if check is not None:
            setattr(reward, "row_problems", check)  # noqa: B010
        return reward

    return attach
