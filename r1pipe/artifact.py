"""What a stage leaves: a folder with a manifest, made aside, checked, and renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
MODEL_DIR, DATASET_DIR = "model", "dataset"
ROWS_FILE = f"{DATASET_DIR}/rows.jsonl"
EVALUATION_FILE, SAMPLES_FILE = "evaluation.json", "samples.jsonl"
WRONG_FILE = "wrong.jsonl"
METRICS_FILE = "metrics.jsonl"
STAGE_FILE, PROGRESS_FILE = "stage.json", "progress.json"
OUTCOME_FILE, ERROR_FILE = "outcome.json", "error.json"
TRANSIENT = (STAGE_FILE, PROGRESS_FILE, OUTCOME_FILE, ERROR_FILE)
"""What driver and worker tell each other while a stage runs; no part of an artifact."""
ASIDE = ".tmp"
"""Suffix of a file that is being written and gets its name when it is whole."""
FORMAT_VERSION = 1


def canonical_json(value: Any) -> str:
    """Return one spelling of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """Return the SHA-256 (hex) of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksums(folder: Path, skip: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Return {relative path: {sha256, bytes}} of every file under `folder`, sorted by path."""
    skipped = set(skip)
    table = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in skipped and name.split("/")[0] not in skipped:
            table[name] = {"sha256": file_digest(path), "bytes": path.stat().st_size}
    return table


def damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what is wrong with the files of `folder` against their checksums, None if whole."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"`{name}` is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"`{name}` has {size} bytes instead of {expected['bytes']}"
        if file_digest(path) != expected["sha256"]:
            return f"`{name}` has changed since it was written (checksum)"
    return None


def sync_folder(folder: Path) -> None:
    """Flush every file and directory entry under `folder` to the disk, before a rename."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_aside(path: Path, text: str) -> None:
    """Write a text file so that readers see the old content or the new, never a part."""
    aside = path.with_name(path.name + ASIDE)
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, path)


@dataclass(frozen=True)
class Artifact:
    """A finished stage, read from its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    def damage(self) -> str | None:
        return damage(self.path, self.manifest["files"])


def read_artifact(folder: Path) -> Artifact | None:
    """Return the artifact in `folder`, or None when there is none that is complete."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = isinstance(manifest, dict) and manifest.get("status") == "complete"
    return Artifact(folder, manifest) if complete else None


def publish(
    workdir: Path,
    target: Path,
    manifest: dict[str, Any],
    superseded: Path,
) -> Artifact:
    """Seal `workdir` with its manifest and rename it to `target`.

    What stood at `target` (the result of another config) is moved under `superseded`, not lost.
    """
    # Else the half-written manifest of a killed attempt is listed, and then renamed away.
    for aside in workdir.rglob(f"*{ASIDE}"):
        aside.unlink()
    sealed = {
        "format": FORMAT_VERSION,
        "status": "complete",
        **manifest,
        "files": checksums(workdir, skip=[MANIFEST, "logs", "checkpoints", *TRANSIENT]),
    }
    write_aside(workdir / MANIFEST, json.dumps(sealed, indent=2, ensure_ascii=False) + "\n")
    sync_folder(workdir)
    if target.exists():
        move_aside(target, superseded)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(workdir, target)
    sync_folder_entry(target.parent)
    # Only now: a kill before the rename must find the folder recognisable and complete.
    remove_transient(target)
    return Artifact(target, sealed)


def remove_transient(folder: Path) -> None:
    """Delete what driver and worker told each other; a kill may have left it in an artifact."""
    for name in TRANSIENT:
        (folder / name).unlink(missing_ok=True)


def sync_folder_entry(folder: Path) -> None:
    """Flush one directory's entries, so that a rename inside it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_aside(folder: Path, into: Path) -> Path:
    """Move `folder` under `into` by a name that is still free; returns where it went."""
    into.mkdir(parents=True, exist_ok=True)
    number = 1
    while (target := into / f"{folder.name}.{number}").exists():
        number += 1
    shutil.move(folder, target)
    return target


def model_path(reference: str) -> str:
    """Return where a model's weights are: inside an artifact, or the path or hub id itself."""
    inside = Path(reference) / MODEL_DIR
    return str(inside) if (Path(reference) / MANIFEST).is_file() and inside.is_dir() else reference


def rows_path(reference: str) -> str:
    """Return where a data set's rows are: inside an artifact, or the reference itself."""
    inside = Path(reference) / ROWS_FILE
    return str(inside) if inside.is_file() else reference


def looks_local(reference: str) -> bool:
    """Whether a reference that is not there is a lost path: a hub id is `name` or `owner/name`."""
    if reference.startswith("task:"):
        return False
    known = (".jsonl", ".parquet", ".json", ".csv", ".safetensors")
    somewhere = reference.startswith((".", "/", "~")) or reference.count("/") > 1
    return somewhere or reference.endswith(known)
