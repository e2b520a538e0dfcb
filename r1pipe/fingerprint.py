"""What a stage's result depends on, as one hash: config, inputs, the code that computes it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1pipe.artifact import digest, file_digest, write_aside
from r1pipe.registry import plugin_files
from r1pipe.schema import StageBase

PLACES = ("output_dir", "tracker")
"""Stage fields that say where things go, not what is computed."""
SERVER = (
    "server_url",
    "server_token_file",
    "server_timeout",
    "server_hang_timeout",
    "server_stall_timeout",
)
"""Rollout fields that say where the engine is and how long to wait for it."""
PACE = (
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "dataloader_num_workers",
    "dataloader_pin_memory",
)
"""Trainer fields that change how a run is watched or kept, not its result."""
SHARED_CODE = ("data", "models", "rewards", "rollout")
STAGE_FILES = {
    "pretrain": "pretrain.py",
    "sft": "sft.py",
    "grpo": "grpo.py",
    "distill": "distill.py",
    "sample": "sample.py",
    "eval": "evaluate.py",
}
SAMPLED_ABOVE = 1 << 30
"""Files larger than this (bytes) are hashed by size, time and both ends: weights of real models."""
END_BYTES = 1 << 20


def stage_fingerprint(stage: StageBase, inputs: Mapping[str, str]) -> str:
    """Return the SHA-256 of a stage: its config with each input replaced by its fingerprint.

    `inputs` maps a dotted field (`init_from`, `data.path`) to the fingerprint of what it names.
    """
    config = stage.model_dump(mode="json")
    kind = config["kind"]
    launcher = config.pop("launcher")
    config["ranks"] = launcher["num_processes"] * launcher["num_machines"]
    for field in PLACES:
        config.pop(field, None)
    for field in SERVER:
        (config.get("rollout") or {}).pop(field, None)
    for field in PACE:
        config.get("trainer", {}).pop(field, None)
    for field, fingerprint in inputs.items():
        _replace(config, field.split("."), fingerprint)
    plugins = [file_digest(path) for path in plugin_files()]
    return digest({"config": config, "code": code_digest(kind), "plugins": plugins})


def _replace(config: dict[str, Any], path: list[str], value: str) -> None:
    *parents, last = path
    for part in parents:
        config = config[part]
    config[last] = value


@functools.cache
def code_digest(kind: str) -> str:
    """Return the hash of the sources a stage of this kind runs; the driver is not among them."""
    package = Path(__file__).parent
    others = {name for other, name in STAGE_FILES.items() if other != kind}
    files = [path for path in (package / "stages").glob("*.py") if path.name not in others]
    for folder in SHARED_CODE:
        files += (package / folder).rglob("*.py")
    table = {path.relative_to(package).as_posix(): file_digest(path) for path in files}
    return digest(table)


class PathDigests:
    """Content hashes of files and folders outside the run, remembered by size and time."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            self._known = json.loads(memory.read_text(encoding="utf-8"))
        self._changed = False

    def of(self, reference: str) -> str:
        """Return the hash of a local file or folder; of the name itself for a hub id or task."""
        path = Path(reference)
        if path.is_file():
            return self._file(path)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
            return digest({p.relative_to(path).as_posix(): self._file(p) for p in files})
        return digest(reference)

    def save(self) -> None:
        """Keep what was hashed for the next run; only called when the run may write."""
        if self._changed and self._memory.parent.is_dir():
            write_aside(self._memory, json.dumps(self._known))
            self._changed = False

    def _file(self, path: Path) -> str:
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        if key not in self._known:
            big = status.st_size > SAMPLED_ABOVE
            self._known[key] = _ends_digest(path, key) if big else file_digest(path)
            self._changed = True
        return self._known[key]


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _ends_digest(path: Path, key: str) -> str:
    state = hashlib.sha256(key.encode())
    with path.open("rb") as stream:
        state.update(stream.read(END_BYTES))
        stream.seek(-END_BYTES, 2)
        state.update(stream.read(END_BYTES))
    return state.hexdigest()
