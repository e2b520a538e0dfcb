"""Weights on their way to the server, in shards: as files beside it, or over the wire."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import torch
from torch import Tensor

from r1pipe.errors import StageFailed
from r1pipe.rollout.remote.client import Client, WeightsLost
from r1pipe.serving import protocol as p
from r1pipe.serving.protocol import Refusal
from r1pipe.serving.spool import shard_name, shared_folder, write_private

Shard = list[tuple[str, Tensor]]
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types of safetensors' format, by its own names."""
NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Transport(Protocol):
    """How a shard gets to where the engine reads it."""

    def put(self, number: int, parts: list[memoryview]) -> int:
        """Deliver one safetensors file, given in parts; returns its bytes."""
        ...


class SharedFolder:
    """The server is on this machine: its folder, in memory, is written to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, number: int, parts: list[memoryview]) -> int:
        try:
            return write_private(self._folder / shard_name(number), *parts)
        except FileNotFoundError:
            raise WeightsLost("the server's folder is gone") from None
        except OSError as error:
            what = f"cannot write to the server's folder {self._folder}: {error.strerror}"
            raise StageFailed(what) from error


class Wire:
    """The server is elsewhere: requests of bounded size, each with its checksum."""

    def __init__(self, client: Client, upload: str) -> None:
        self._client, self._upload = client, upload

    def put(self, number: int, parts: list[memoryview]) -> int:
        sent = 0
        for block in ranges(parts, p.MOST_RANGE):
            path = f"{p.WEIGHTS}/{self._upload}/{number}?offset={sent}"
            check = {p.CHECK_HEADER: f"{zlib.crc32(block):08x}"}
            try:
                self._client.send(path, block, check)
            except Refusal as refusal:
                # An answer that was lost on its way: the bytes are there.
                if (refusal.more or {}).get("have") != sent + len(block):
                    raise
            sent += len(block)
        return sent


def send_weights(
    client: Client,
    opened: dict[str, Any],
    tensors: Iterable[tuple[str, Tensor]],
    version: str,
    shard_bytes: int = p.SHARD_BYTES,
) -> None:
    """Give the engine a whole set of weights, by the names of the checkpoint.

    `opened` is what the server said of itself. Tensors are taken one after another and held for one
    shard at a time; the engine writes with its old weights until all have come and are taken.
    Raises WeightsLost where the server was started again in between.
    """
    try:
        upload = client.ask("POST", p.WEIGHTS)["upload"]
        folder = shared_folder(opened.get("folder"), opened.get("witness"))
        beside = folder is not None and p.NAME.fullmatch(upload)
        transport: Transport = (
            SharedFolder(folder / upload) if folder and beside else Wire(client, upload)
        )
        shards = collected(tensors, NARROW.get(opened["dtype"]), shard_bytes)
        sizes = [transport.put(number, encoded(shard)) for number, shard in enumerate(shards)]
        name = uuid4().hex
        commit = {"name": name, "weights": version, "sizes": sizes}
        client.ask("POST", f"{p.WEIGHTS}/{upload}/commit", commit)
        client.result(name)
    except Refusal as refusal:
        raise client.lost(refusal) from refusal


def collected(
    tensors: Iterable[tuple[str, Tensor]], narrow: torch.dtype | None, size: int
) -> Iterator[Shard]:
    """Yield shards of about `size` bytes, on the CPU.

    `narrow`: what the engine computes in; matrices go in it, rounded as the engine would. Vectors
    (norms, routing biases) and routers' weights keep their precision: engines may keep it too.
    """
    shard: Shard = []
    held = 0
    for name, tensor in tensors:
        wide = narrow is not None and tensor.ndim >= 2 and tensor.dtype == torch.float32
        kept = name.endswith(".gate.weight") or not wide
        with torch.no_grad():
            value = tensor.detach().to("cpu", tensor.dtype if kept else narrow).contiguous()
        count = value.numel() * value.element_size()
        if shard and held + count > size:
            yield shard
            shard, held = [], 0
        shard.append((name, value))
        held += count
    if shard:
        yield shard


def encoded(shard: Shard) -> list[memoryview]:
    """Return a shard as a safetensors file, in parts that are the tensors' own memory."""
    # Wide types first: every tensor then begins at a multiple of its element's size.
    ordered = sorted(shard, key=lambda item: -item[1].element_size())
    header, place = {}, 0
    for name, tensor in ordered:
        end = place + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = memoryview(len(text).to_bytes(8, "little") + text)
    return [head, *(_bytes_of(tensor) for _, tensor in ordered if tensor.numel())]


def ranges(parts: list[memoryview], size: int) -> Iterator[memoryview | bytes]:
    """Yield the bytes of `parts` in blocks of `size`, the last one shorter."""
    waiting: list[memoryview] = []
    room = size
    for part in parts:
        while len(part):
            taken, part = part[:room], part[room:]
            waiting.append(taken)
            room -= len(taken)
            if not room:
                yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
                waiting, room = [], size
    if waiting:
        yield waiting[0] if len(waiting) == 1 else b"".join(waiting)


def _bytes_of(tensor: Tensor) -> memoryview:
    held: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(held)
