"""Texts to token ids and labels, on flat arrays: rows of any length side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

IGNORED = -100
"""Label of a token that bears no loss (PyTorch's cross entropy)."""
Encode = Callable[[list[str]], list[list[int]]]
"""Texts -> token ids, with whatever the tokenizer puts around a text."""


@dataclass(frozen=True)
class Encoded:
    """Rows [R] of tokens [T] one after the other."""

    ids: np.ndarray
    """int64 [T]."""
    lengths: np.ndarray
    """int64 [R], tokens of each row."""
    starts: np.ndarray
    """int64 [R], tokens at the beginning of each row that bear no loss."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [T]: the ids, `IGNORED` where there is no loss."""
        return np.where(self.places < np.repeat(self.starts, self.lengths), IGNORED, self.ids)

    @property
    def places(self) -> np.ndarray:
        """int64 [T]: the place of each token in its row."""
        begins = np.cumsum(self.lengths) - self.lengths
        return np.arange(len(self.ids)) - np.repeat(begins, self.lengths)

    def kept(self, counts: np.ndarray) -> Encoded:
        """Return the first `counts` [R] tokens of each row; rows with none of them are left out."""
        inside = self.places < np.repeat(counts, self.lengths)
        rows = counts > 0
        return Encoded(self.ids[inside], counts[rows], self.starts[rows])


def encode_rows(
    texts: Sequence[str],
    prompts: Sequence[str] | None,
    encode: Encode,
    end: str,
    completion_only: bool = True,
) -> Encoded:
    """Return `texts` (completions of `prompts`, where there are any), each closed by `end`.

    The loss of a row with a prompt begins where its tokens leave the prompt's, unless
    `completion_only` is false.
    """
    whole = [text if text.endswith(end) else text + end for text in texts]
    if prompts is not None:
        whole = [prompt + text for prompt, text in zip(prompts, whole, strict=True)]
    rows = encode(whole)
    starts = np.zeros(len(rows), dtype=np.int64)
    if prompts is not None and completion_only:
        distinct = list(dict.fromkeys(prompts))
        known = dict(zip(distinct, encode(distinct), strict=True))
        pairs = zip(prompts, rows, strict=True)
        starts = np.array([common_prefix(known[prompt], ids) for prompt, ids in pairs], np.int64)
    lengths = np.array([len(ids) for ids in rows], dtype=np.int64)
    flat = np.fromiter((i for ids in rows for i in ids), np.int64, int(lengths.sum()))
    return Encoded(flat, lengths, starts)


def within(encoded: Encoded, longest: int | None) -> tuple[Encoded, np.ndarray]:
    """Return the rows cut to `longest` tokens, and the numbers of those that lost all their loss.

    The latter are left out.
    """
    if longest is None:
        return encoded, np.empty(0, dtype=np.int64)
    counts = np.minimum(encoded.lengths, longest)
    counts[encoded.starts >= counts] = 0
    return encoded.kept(counts), np.flatnonzero(counts == 0)


def common_prefix(first: list[int], second: list[int]) -> int:
    """Return how many leading token ids two sequences share."""
    if second[: len(first)] == first:
        return len(first)
    pairs = enumerate(zip(first, second, strict=False))
    differ = (place for place, (one, other) in pairs if one != other)
    return next(differ, min(len(first), len(second)))
