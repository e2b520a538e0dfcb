"""Rows made by other processes while they are read: those of the task, whoever makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from r1pipe.data import corpus
from r1pipe.data.sources import load_rows
from r1pipe.data.streaming import StreamedRows, is_streamed, stream
from r1pipe.errors import UserError
from r1pipe.models.tiny import build_tiny_tokenizer
from r1pipe.schema import Data

TOKENIZER: Any = build_tiny_tokenizer()


def data(**changes: Any) -> Data:
    options = {"block": 16, "web_share": 0.3}
    return Data(**{"path": "task:corpus", "limit": 70, "options": options, **changes})


@pytest.fixture(scope="module")
def rows() -> StreamedRows:
    return stream(data(), 3, TOKENIZER, None, True)


def test_blocks_are_the_corpus_in_pieces() -> None:
    whole = list(corpus.rows("train", 5, 70, block=16, web_share=0.3))
    parts = [
        list(corpus.rows("train", 5, 70, block=16, only=number, web_share=0.3))
        for number in range(5)
    ]
    assert [len(part) for part in parts] == [16, 16, 16, 16, 6]
    assert [row for part in parts for row in part] == whole
    assert len({row["prompt"] + row["completion"] for row in whole}) > 60, "blocks differ"


def test_the_last_part_of_a_corpus_in_blocks_is_the_webs() -> None:
    found = list(corpus.rows("train", 0, 64, block=16, web_share=0.5, general_share=0.0))
    clean = [row["completion"].startswith("<think>") for row in found]
    assert all(clean[:32]) and not all(clean[32:])


def test_rows_are_those_of_the_task(rows: StreamedRows) -> None:
    expected = load_rows(data(), 3)
    assert len(rows) == len(expected) == 70
    for made, row in zip(rows, expected, strict=True):
        ids = TOKENIZER(row["prompt"] + row["completion"] + "<eos>")["input_ids"]
        prompt = len(TOKENIZER(row["prompt"])["input_ids"])
        assert made["input_ids"] == ids
        assert made["labels"] == [-100] * prompt + ids[prompt:]


def test_a_batch_is_its_rows_padded(rows: StreamedRows) -> None:
    numbers = [69, 3, 15, 16, 40, 3]
    batch = rows.__getitems__(numbers)
    for place, number in enumerate(numbers):
        row, length = rows[number], rows.lengths[number]
        assert length == len(row["input_ids"])
        assert batch["input_ids"][place, :length].tolist() == row["input_ids"]
        assert batch["labels"][place, :length].tolist() == row["labels"]
        assert batch["attention_mask"][place].tolist() == [
            int(column < length) for column in range(batch["input_ids"].shape[1])
        ]
        assert set(batch["input_ids"][place, length:].tolist()) <= {TOKENIZER.pad_token_id}
        assert set(batch["labels"][place, length:].tolist()) <= {-100}
    assert batch["input_ids"].shape[1] == max(rows.lengths[number] for number in numbers)


def test_the_number_of_processes_changes_nothing(rows: StreamedRows) -> None:
    other = StreamedRows(rows._maker, TOKENIZER.pad_token_id, processes=2)
    assert all(np.array_equal(rows.block(n).ids, other.block(n).ids) for n in range(5))


def test_long_rows_lose_their_end() -> None:
    options = {"block": 16, "few_shot_share": 0.0}
    cut = stream(data(limit=16, options=options), 3, TOKENIZER, 30, True)
    assert max(cut.lengths) == 30
    assert len(cut) == 16


@pytest.mark.parametrize(
    ("options", "longest", "message"),
    [
        ({"block": 16, "web_shares": 0.5}, None, "web_shares"),
        ({"block": 16}, 2, "row 1 "),
    ],
    ids=["unknown option", "no completion left"],
)
def test_what_is_wrong_with_the_rows_is_a_user_error(
    options: dict[str, Any], longest: int | None, message: str
) -> None:
    broken = stream(data(options=options, limit=16), 0, TOKENIZER, longest, True)
    with pytest.raises(UserError, match=message):
        broken.block(0)


@pytest.mark.parametrize(
    ("changes", "streamed"),
    [
        ({}, True),
        ({"options": {}}, False),
        ({"path": "task:arithmetic", "options": {"block": 16}}, False),
        ({"path": "rows.jsonl"}, False),
        ({"limit": None}, False),
        ({"chat": True}, False),
    ],
    ids=str,
)
def test_what_is_streamed(changes: dict[str, Any], streamed: bool) -> None:
    assert is_streamed(data(**changes), TOKENIZER) is streamed
