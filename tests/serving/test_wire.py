"""What goes over the wire comes back as it was, and nothing else is taken for it."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from r1pipe.rollout.engine import SampledTokens
from r1pipe.rollout.remote.sending import DTYPES, collected, encoded, ranges
from r1pipe.rollout.remote.wire import (
    Malformed,
    pack,
    rows_in,
    rows_out,
    unpack,
    values_in,
    values_out,
    written_in,
    written_out,
)
from r1pipe.serving.protocol import Address, Group, Refusal, is_loopback

ROWS = st.lists(st.lists(st.integers(0, 200_000), max_size=9), max_size=9)
FIGURES = st.floats(allow_nan=False, width=64)


@given(ROWS)
def test_rows_come_back(rows: list[list[int]]) -> None:
    meta, arrays = unpack(pack({"seed": 3, "names": ["é"]}, rows_in("prompts", rows)))
    assert meta == {"seed": 3, "names": ["é"]}
    assert rows_out("prompts", arrays, 200_001) == rows


@given(ROWS, st.data())
def test_completions_come_back_to_the_bit(rows: list[list[int]], data: st.DataObject) -> None:
    values = [[data.draw(FIGURES) for _ in row] for row in rows]
    for written in (SampledTokens(rows), SampledTokens(rows, values)):
        found = written_out(unpack(pack({}, written_in(written)))[1])
        assert (found.ids, found.logprobs) == (written.ids, written.logprobs)
    assert values_out(unpack(pack({}, values_in(values)))[1]) == values
    unknown = values_out(unpack(pack({}, values_in([[math.nan, -1.0]])))[1])
    assert math.isnan(unknown[0][0]) and unknown[0][1] == -1.0


@given(st.binary(max_size=200))
def test_bytes_that_are_something_else_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(data)


@given(st.data())
def test_damaged_bodies_are_refused_or_still_whole(data: st.DataObject) -> None:
    body = bytearray(pack({"a": 1}, rows_in("prompts", [[1, 2], [3]])))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    length = data.draw(st.integers(0, len(body)))
    try:
        _, arrays = unpack(bytes(body[:length]))
        rows = rows_out("prompts", arrays, 10)
    except Malformed:
        return
    assert [len(row) for row in rows] and all(0 <= i < 10 for row in rows for i in row)


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": {"r1pipe": "[1]"}},
        {"__metadata__": {"r1pipe": 3}},
        {"__metadata__": {}},
        {},
        {"__metadata__": {"r1pipe": "{}"}, "x": {"dtype": "F32", "shape": [1 << 60]}},
        {
            "__metadata__": {"r1pipe": "{}"},
            "x": {"dtype": "Q", "shape": [], "data_offsets": [0, 0]},
        },
        [],
    ],
)
def test_headers_that_say_nothing_are_refused(header: object) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(Malformed):
        unpack(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"ids": np.zeros(3, np.int32)},
        {"ids": np.zeros(3, np.int32), "ids.lengths": np.array([1, 1], np.int32)},
        {"ids": np.zeros(3, np.int32), "ids.lengths": np.array([4, -1], np.int32)},
        {"ids": np.zeros(3, np.int64), "ids.lengths": np.array([3], np.int32)},
        {"ids": np.zeros((3, 1), np.int32), "ids.lengths": np.array([3], np.int32)},
        {"ids": np.array([1, 2, 30], np.int32), "ids.lengths": np.array([3], np.int32)},
        {"ids": np.array([1, 2, -3], np.int32), "ids.lengths": np.array([3], np.int32)},
    ],
)
def test_rows_that_do_not_add_up_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(Malformed):
        rows_out("ids", arrays, 30)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 50))
def test_shards_hold_every_tensor_once_and_are_safetensors(sizes: list[int], limit: int) -> None:
    kinds = list(DTYPES)
    tensors = {
        f"t{n}": torch.arange(size).to(kinds[n % len(kinds)]) for n, size in enumerate(sizes)
    }
    tensors["view"] = torch.arange(12.0).view(3, 4).t()
    found: dict[str, torch.Tensor] = {}
    for shard in collected(tensors.items(), None, limit):
        data = b"".join(encoded(shard))
        for size in (1, 7, len(data), len(data) + 1):
            blocks = [bytes(block) for block in ranges(encoded(shard), size)]
            assert b"".join(blocks) == data and all(len(b) == size for b in blocks[:-1])
        part = load(data)
        assert not part.keys() & found.keys()
        found |= part
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.uint8), tensor.contiguous().view(torch.uint8))


def test_matrices_are_narrowed_as_the_engine_would_and_vectors_are_not() -> None:
    tensors = {
        "model.layers.0.mlp.up_proj.weight": torch.randn(4, 4),
        "model.layers.0.mlp.gate.weight": torch.randn(4, 4),
        "model.layers.0.mlp.gate.e_score_correction_bias": torch.randn(4),
        "model.norm.weight": torch.randn(4),
    }
    (shard,) = collected(tensors.items(), torch.bfloat16, 1 << 20)
    found = dict(shard)
    up = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(found[up], tensors.pop(up).bfloat16())
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_addresses_and_groups() -> None:
    assert Address.read("http://[::1]:80") == Address(False, "::1", 80)
    assert Address.read("https://gpu-7.lan:8047/").secure
    for wrong in ("localhost:80", "http://x", "ftp://x:1", "http://x:1/v1", "http://x:99999", ""):
        with pytest.raises(ValueError, match="http://host:port"):
            Address.read(wrong)
    assert all(map(is_loopback, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "gpu-7", "localhost.evil")))
    assert Group.read(str(Group("3.0", 1, 2))) == Group("3.0", 1, 2)
    for text in ("", "a 1", "a 2 2", "a -1 2", "a 0 99999", "a b 0 1", "\n 0 1"):
        with pytest.raises(Refusal):
            Group.read(text)
