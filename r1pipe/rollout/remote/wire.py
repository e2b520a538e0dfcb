"""Prompts, completions and weights as bytes: safetensors with a JSON header, never a pickle."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from r1pipe.rollout.engine import SampledTokens

# Shape legend: R rows, N tokens of all rows behind one another.

META = "r1pipe"
MOST_HEADER = 16 << 20


class Malformed(ValueError):
    """Bytes that are not what they should be."""


def pack(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Return a safetensors file that holds `arrays` and, in its header, `meta` as JSON."""
    return save(arrays, {META: json.dumps(meta)})


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what `pack` was given; raises Malformed for anything else."""
    try:
        (size,) = struct.unpack_from("<Q", data)
        if size > min(MOST_HEADER, len(data) - 8):
            raise Malformed("the header is longer than the whole")
        header = json.loads(data[8 : 8 + size])
        meta = json.loads(header["__metadata__"][META])
        if not isinstance(meta, dict):
            raise Malformed("the header holds no mapping")
        return meta, load(data)
    except (
        struct.error,
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ) as error:
        raise Malformed(f"not a safetensors body: {error}") from error


def rows_in(name: str, rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Return lists of token ids as flat int32 [N] and lengths int32 [R]."""
    lengths = np.fromiter(map(len, rows), np.int32, len(rows))
    flat = np.empty(int(lengths.sum()), np.int32)
    start = 0
    for row in rows:
        flat[start : start + len(row)] = row
        start += len(row)
    return {name: flat, f"{name}.lengths": lengths}


def rows_out(name: str, arrays: dict[str, np.ndarray], vocabulary: int | None = None) -> list[Any]:
    """Return the lists again; raises Malformed unless lengths add up and ids are in range."""
    flat, lengths = _flat(name, arrays, np.int32)
    outside = (
        vocabulary is not None and len(flat) and not 0 <= flat.min() <= flat.max() < vocabulary
    )
    if outside:
        raise Malformed(f"`{name}` has token ids outside the {vocabulary} of the vocabulary")
    return _cut(flat.tolist(), lengths)


def written_in(written: SampledTokens) -> dict[str, np.ndarray]:
    """Return completions and, where there are some, log-probabilities (float64, exact)."""
    arrays = rows_in("ids", written.ids)
    if written.logprobs is not None:
        values = [value for row in written.logprobs for value in row]
        arrays["logprobs"] = np.array(values, np.float64)
        if len(values) != len(arrays["ids"]):
            raise Malformed("the engine gave another number of log-probabilities than tokens")
    return arrays


def written_out(arrays: dict[str, np.ndarray]) -> SampledTokens:
    _, lengths = _flat("ids", arrays, np.int32)
    values = arrays.get("logprobs")
    if values is not None and (values.dtype != np.float64 or len(values) != int(sum(lengths))):
        raise Malformed("`logprobs` does not fit `ids`")
    return SampledTokens(
        rows_out("ids", arrays), None if values is None else _cut(values.tolist(), lengths)
    )


def values_in(values: Sequence[Sequence[float]]) -> dict[str, np.ndarray]:
    """Return figures of several completions as flat float64 [N] and lengths int32 [R]."""
    flat = np.array([value for row in values for value in row], np.float64)
    lengths = np.fromiter(map(len, values), np.int32, len(values))
    return {"values": flat, "values.lengths": lengths}


def values_out(arrays: dict[str, np.ndarray]) -> list[list[float]]:
    flat, lengths = _flat("values", arrays, np.float64)
    return _cut(flat.tolist(), lengths)


def _flat(name: str, arrays: dict[str, np.ndarray], dtype: Any) -> tuple[np.ndarray, list[int]]:
    flat, lengths = arrays.get(name), arrays.get(f"{name}.lengths")
    if flat is None or lengths is None:
        raise Malformed(f"`{name}` is missing")
    if flat.dtype != dtype or lengths.dtype != np.int32 or flat.ndim != 1 or lengths.ndim != 1:
        raise Malformed(f"`{name}` has another type or shape than agreed")
    if len(lengths) and lengths.min() < 0:
        raise Malformed(f"`{name}` has a negative length")
    if int(lengths.sum(dtype=np.int64)) != len(flat):
        raise Malformed(f"the lengths of `{name}` do not add up")
    return flat, lengths.tolist()


def _cut(flat: list[Any], lengths: Sequence[int]) -> list[list[Any]]:
    rows, start = [], 0
    for length in lengths:
        rows.append(flat[start : start + length])
        start += length
    return rows


def finite(value: Any) -> bool:
    """Whether a JSON value is a plain number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
