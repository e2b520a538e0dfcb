"""The smallest step of a long multiplication as a problem: two digits' product, and a carry.

Held-out multiplications hold steps that no other multiplication below 1000 has: `69*9` alone adds
8 to 54. Who has never met such a sum can only guess it, whatever is learnt from the train split.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from r1pipe.data.arithmetic import LANGUAGES, PROMPT_WORDS
from r1pipe.data.traces import TRACE_WORDS, tagged

TASK = "step"
LARGEST_CARRY = 8  # of 9 * 9 + 8


def rows(
    split: str, seed: int, count: int | None = None, *, languages: Sequence[str] = LANGUAGES
) -> Iterator[dict[str, str]]:
    """Rows like `6*9+8`, solved as in a trace: `ones 6*9=54 +8=62`.

    All of them are for training: raises ValueError for another split.
    """
    if split != "train":
        raise ValueError(f"split: no single step is held out, received {split!r}")
    rng = random.Random(f"{seed} {split} steps")
    for _ in range(count or 0):
        left, right = rng.randrange(10), rng.randrange(10)
        carry, language = rng.randint(0, LARGEST_CARRY), rng.choice(languages)
        product, answer = left * right, left * right + carry
        word = TRACE_WORDS[language]["ones"]
        thought = f"{word}{left}*{right}={product:02d} +{carry}={answer:02d} "
        yield {
            "prompt": f"{PROMPT_WORDS[language]}{left}*{right}+{carry}\n",
            "completion": tagged(thought, str(answer)),
            "answer": str(answer),
            "domain": "reasoning",
            "task": TASK,
            "language": language,
            "id": f"{left}*{right}+{carry}|{language}",
        }
