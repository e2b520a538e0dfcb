"""A checkpoint's files, looked at from outside: what is in them, without loading a model."""

from __future__ import annotations

import hashlib
from math import prod
from pathlib import Path

from safetensors import safe_open

from r1pipe.artifact import digest, model_path

HASHED_BYTES = 8 << 30
"""Checkpoints up to this size are known by their content, and not sent again."""


def checkpoint_files(reference: str) -> list[Path]:
    """Return the weights' files of a model in a local folder; none for one of the hub."""
    return sorted(Path(model_path(reference)).expanduser().glob("*.safetensors"))


def content_of(reference: str) -> str | None:
    """Return a name for the weights at `reference` that says what is in them; None if too large."""
    files = checkpoint_files(reference)
    if not files or sum(file.stat().st_size for file in files) > HASHED_BYTES:
        return None
    table = {}
    for file in files:
        with file.open("rb") as stream:
            table[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest(table)[:32]


def checkpoint_shapes(reference: str) -> dict[str, tuple[int, ...]] | None:
    """Return {name: shape} of the tensors in a local folder's files, read from their headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in checkpoint_files(reference):
        with safe_open(str(path), "np") as file:
            shapes |= {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
    return shapes or None


def checkpoint_elements(reference: str) -> int | None:
    """Return how many numbers the weights are; None where the files are not here."""
    shapes = checkpoint_shapes(reference)
    return None if shapes is None else sum(prod(shape) for shape in shapes.values())
