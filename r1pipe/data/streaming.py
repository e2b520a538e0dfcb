"""Rows of a generated task, made by other processes while a trainer reads the first of them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np

from r1pipe.data.encoding import IGNORED, Encode, Encoded, encode_rows, within
from r1pipe.data.prompts import wrap_prompt
from r1pipe.data.sources import TASK_PREFIX
from r1pipe.errors import Problem, StageFailed, UserError
from r1pipe.launch import die_with_parent
from r1pipe.registry import TASKS
from r1pipe.schema import Data

SIZE_OPTION, ONE_OPTION = "block", "only"
"""Options of a task that can be made in pieces: rows of a block, and which one is wanted alone."""
MOST_PROCESSES = 12


def is_streamed(data: Data, tokenizer: Any) -> bool:
    """Whether these rows can be made in blocks: one task that was asked to, as plain text."""
    path = data.path or ""
    if not path.startswith(TASK_PREFIX) or data.mix or data.chat or data.limit is None:
        return False
    if not data.options.get(SIZE_OPTION) or getattr(tokenizer, "backend_tokenizer", None) is None:
        return False
    name = path.removeprefix(TASK_PREFIX)
    return {SIZE_OPTION, ONE_OPTION} <= set(inspect.signature(TASKS.get(name)).parameters)


@dataclass(frozen=True)
class BlockMaker:
    """Everything that a process needs to make any block of the rows."""

    data: Data
    seed: int
    tokenizer: str
    """JSON of a `tokenizers.Tokenizer`."""
    end: str
    max_length: int | None
    completion_only: bool

    @property
    def size(self) -> int:
        """Rows of every block but the last."""
        return int(self.data.options[SIZE_OPTION])

    @property
    def total(self) -> int:
        assert self.data.limit is not None
        return self.data.limit

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def rows_of(self, block: int) -> int:
        return min(self.size, self.total - block * self.size)

    def make(self, block: int) -> Encoded:
        """Return one block; raises ValueError for rows without a token that bears loss."""
        data = self.data
        task = TASKS.get((data.path or "").removeprefix(TASK_PREFIX))
        rows = list(task(data.split, self.seed, data.limit, **data.options, **{ONE_OPTION: block}))
        if len(rows) != self.rows_of(block):
            raise ValueError(f"block {block}: {len(rows)} rows, expected {self.rows_of(block)}")
        prompts = [str(wrap_prompt(row["prompt"], data)) for row in rows]
        texts = [row["completion"] for row in rows]
        encode = _encoder(self.tokenizer)
        whole = encode_rows(texts, prompts, encode, self.end, self.completion_only)
        encoded, lost = within(whole, self.max_length)
        if len(lost):
            first = block * self.size + int(lost[0]) + 1
            raise ValueError(f"row {first} has no token of its completion within max_length")
        return Encoded(encoded.ids.astype(np.int32), encoded.lengths, encoded.starts)


@cache
def _encoder(tokenizer: str) -> Encode:
    """Return the function of `encode_rows` for a tokenizer."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer)
    backend.no_padding()
    backend.no_truncation()
    return lambda texts: [found.ids for found in backend.encode_batch(texts)]


_makers: list[BlockMaker] = []  # of a process of the pool: its own, got once


def _begin(parent: int, maker: BlockMaker) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    die_with_parent(parent)
    _makers.append(maker)


def _make(block: int) -> Encoded:
    return _makers[0].make(block)


class StreamedRows:
    """A map-style data set whose blocks come from a pool; reading a row waits for its block.

    Rows are the same whatever the number of processes. Token ids stay in memory, 4 bytes each.
    """

    def __init__(self, maker: BlockMaker, pad: int, processes: int | None = None) -> None:
        """`pad`: token id that fills short rows; `processes`: None is what the machine has."""
        self._maker, self._pad = maker, pad
        spare = max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0)) - 2))
        # Not forked: this process may hold threads and a GPU.
        self._pool = ProcessPoolExecutor(
            processes or spare, get_context("spawn"), _begin, (os.getpid(), maker)
        )
        self._waiting: list[Future[Encoded] | None] = [
            self._pool.submit(_make, block) for block in range(len(maker))
        ]
        self._pool.shutdown(wait=False)  # nothing more is asked of it
        self._blocks: list[Encoded | None] = [None] * len(maker)
        self._begins: list[np.ndarray] = [np.empty(0)] * len(maker)

    def __len__(self) -> int:
        return self._maker.total

    def block(self, number: int) -> Encoded:
        """Return a block, waiting for it. Raises UserError for what is wrong with the rows."""
        future = self._waiting[number]
        if future is not None:
            try:
                found = future.result()
            except (ValueError, TypeError, KeyError) as error:
                self.close()
                raise UserError(Problem(self._maker.data.path or "data", str(error))) from error
            except BrokenProcessPool as error:
                raise StageFailed("a process that makes rows was ended from outside") from error
            self._waiting[number] = None
            self._blocks[number] = found
            self._begins[number] = np.cumsum(found.lengths) - found.lengths
        made = self._blocks[number]
        assert made is not None
        return made

    def close(self) -> None:
        """Make no more blocks."""
        for future in self._waiting:
            if future is not None:
                future.cancel()

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row; looking at one waits for its block."""
        return _Lengths(self)

    def length(self, row: int) -> int:
        block, place = divmod(row, self._maker.size)
        return int(self.block(block).lengths[place])

    def __getitem__(self, row: int) -> dict[str, list[int]]:
        block, place = divmod(row, self._maker.size)
        made = self.block(block)
        first = self._begins[block][place]
        ids = made.ids[first : first + made.lengths[place]].tolist()
        start = int(made.starts[place])
        return {"input_ids": ids, "labels": [IGNORED] * start + ids[start:]}

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return (self[row] for row in range(len(self)))

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the batch of these rows, padded on the right: what a collator would make of it."""
        import torch

        lengths = np.array([self.length(row) for row in rows])
        shape = (len(rows), int(lengths.max()))
        ids = np.full(shape, self._pad, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        numbers = np.asarray(rows)
        for block in np.unique(numbers // self._maker.size):
            mine = np.flatnonzero(numbers // self._maker.size == block)
            places = numbers[mine] % self._maker.size
            made, begins = self.block(int(block)), self._begins[int(block)]
            width = int(lengths[mine].max())
            columns = np.arange(width)
            inside = columns < lengths[mine][:, None]
            source = np.minimum(begins[places][:, None] + columns, len(made.ids) - 1)
            found = np.where(inside, made.ids[source], self._pad)
            ids[mine, :width] = found
            scored = inside & (columns >= made.starts[places][:, None])
            labels[mine, :width] = np.where(scored, found, IGNORED)
        mask = np.arange(shape[1]) < lengths[:, None]
        arrays = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class _Lengths(Sequence[int]):
    def __init__(self, rows: StreamedRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        return self._rows.length(row)


def stream(
    data: Data, seed: int, tokenizer: Any, max_length: int | None, completion_only: bool
) -> StreamedRows:
    """Start making the rows of `data`; a tokenizer with a Rust backend, see `is_streamed`."""
    maker = BlockMaker(
        data,
        seed,
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.eos_token,
        max_length,
        completion_only,
    )
    return StreamedRows(maker, tokenizer.pad_token_id)
