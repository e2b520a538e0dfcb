"""One-sided bounds of an error rate; standard library only."""

from __future__ import annotations

import math

from r1pipe.report.records import Estimate

LEVEL = 0.95


def errors_of(accuracy: Estimate) -> tuple[int, int]:
    """Return (wrong answers, problems) of a share of right ones."""
    return round((1 - accuracy.mean) * accuracy.n), accuracy.n


def error_bound(wrong: int, asked: int, level: float = LEVEL) -> float:
    """Return the upper end of Clopper and Pearson's one-sided interval (Biometrika 26, 1934).

    With that error rate, `wrong` or fewer of `asked` problems fail with probability 1 - `level`.
    """
    if asked <= 0 or wrong >= asked:
        return 1.0
    low, high = wrong / asked, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if at_most(wrong, asked, middle) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def at_most(wrong: int, asked: int, rate: float) -> float:
    """Return the probability of `wrong` or fewer failures in `asked` trials of a `rate`."""
    if rate <= 0.0 or rate >= 1.0:
        return float(rate <= 0.0 or wrong >= asked)
    logs = [
        math.lgamma(asked + 1) - math.lgamma(k + 1) - math.lgamma(asked - k + 1)
        + k * math.log(rate) + (asked - k) * math.log1p(-rate)
        for k in range(wrong + 1)
    ]  # fmt: skip
    return math.fsum(math.exp(value) for value in logs)
