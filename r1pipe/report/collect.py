"""Reads a run directory into plain records; half-finished and damaged runs are read as they are."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from r1pipe.report.reading import as_dict, is_number, read_json, read_jsonl, read_yaml
from r1pipe.report.records import Decoding, Estimate, Input, RunRecord, Sample, StageRecord

EVAL_SUFFIX = "_eval"
SAMPLE_TEXTS = ("id", "prompt", "answer", "domain", "task", "language", "decoding", "completion")


def collect(run_dir: Path) -> RunRecord:
    """Read the run in `run_dir`; raises FileNotFoundError when there is no such folder."""
    if not run_dir.is_dir():
        raise FileNotFoundError(run_dir)
    recipe = read_json(run_dir / "recipe.json")
    resolved = read_yaml(run_dir / "resolved.yaml")
    overrides = recipe.get("overrides") or read_yaml(run_dir / "overrides.yaml", expected=list)
    asked = {**as_dict(resolved.get("stages")), **as_dict(recipe.get("stages"))}
    configs = as_dict(resolved.get("stages"))
    planned = {name: as_dict(configs.get(name) or kind) for name, kind in asked.items()}
    names = list(dict.fromkeys([*planned, *_found(run_dir)]))
    if recipe.get("stages"):  # what an earlier version of the recipe left is not part of it
        names = list(recipe["stages"])
    records = {name: _read_stage(run_dir, name, planned.get(name, {})) for name in names}
    _link(records)
    for name, record in records.items():
        model = records.get(name.removesuffix(EVAL_SUFFIX))
        if record.kind == "eval" and model is not None and model is not record:
            model.evaluation_stage = record
            model.evaluation, model.samples = record.evaluation, record.samples
            model.wrong = record.wrong
    attached = {id(r.evaluation_stage) for r in records.values() if r.evaluation_stage}
    stages = chain_order([r for r in records.values() if id(r) not in attached])
    name = str(recipe.get("name") or resolved.get("name") or run_dir.resolve().name)
    shown = [str(override) for override in overrides] if isinstance(overrides, list) else []
    return RunRecord(run_dir, name, str(recipe.get("recipe") or name), resolved, shown, stages)


def chain_order(stages: list[StageRecord]) -> list[StageRecord]:
    """Sort so that inputs come first; a stage without inputs moves next to its first reader."""
    known = {s.name for s in stages}
    needs = {s.name: {i.stage for i in s.inputs if i.stage in known} - {s.name} for s in stages}
    ordered: list[StageRecord] = []
    placed: set[str] = set()
    waiting = [s for s in stages if needs[s.name]] or stages

    def place(stage: StageRecord, path: frozenset[str] = frozenset()) -> None:
        if stage.name in placed or stage.name in path:
            return
        for other in stages:
            if other.name in needs[stage.name]:
                place(other, path | {stage.name})
        placed.add(stage.name)
        ordered.append(stage)

    for stage in [*waiting, *stages]:
        place(stage)
    return ordered


def _found(run_dir: Path) -> list[str]:
    """Names of stage folders, finished ones in the order they were made, then those in progress."""
    finished = []
    for manifest in run_dir.glob("*/manifest.json"):
        created = str(read_json(manifest).get("created") or "")
        finished.append((created, manifest.parent.name))
    partial = sorted(p.name for p in run_dir.glob(".partial/*") if p.is_dir())
    return [name for _, name in sorted(finished)] + partial


def _read_stage(run_dir: Path, name: str, planned: dict[str, Any]) -> StageRecord:
    folder, partial, error = run_dir / name, run_dir / ".partial" / name, ""
    if (folder / "manifest.json").is_file():
        manifest = read_json(folder / "manifest.json")
        status = "complete" if manifest.get("status") == "complete" else "damaged"
    elif partial.is_dir():
        folder, manifest, status = partial, {}, "unfinished"
        error = str(read_json(partial / "error.json").get("message") or "")
        status = "failed" if error else status
        planned = read_json(partial / "stage.json") or planned
        planned = planned.get("stage", planned) if "kind" not in planned else planned
    else:
        kind = str(planned.get("kind") or "unknown")
        return StageRecord(name, kind, "not run", config=planned, inputs=_planned_inputs(planned))
    config = as_dict(manifest.get("config")) or planned
    record = StageRecord(
        name=name,
        kind=str(manifest.get("stage_kind") or config.get("kind") or "unknown"),
        status=status,
        path=folder,
        fingerprint=manifest.get("fingerprint"),
        config=config,
        metrics=as_dict(manifest.get("metrics")),
        timings={k: v for k, v in as_dict(manifest.get("timings")).items() if is_number(v)},
        versions={k: str(v) for k, v in as_dict(manifest.get("versions")).items()},
        **_machine(as_dict(manifest.get("machine"))),
        code=as_dict(manifest.get("code")),
        created=manifest.get("created"),
        attempts=manifest.get("attempts"),
        history=[_flat(row) for row in read_jsonl(folder / "metrics.jsonl")],
        progress=read_json(folder / "progress.json"),
        error=error,
        log_tail=_log_tail(folder) if status != "complete" else "",
        rows=_rows(folder, as_dict(manifest.get("metrics"))),
        parameters=_parameters(folder, as_dict(manifest.get("metrics"))),
        evaluation=_evaluation(folder / "evaluation.json"),
        samples=[to_sample(row) for row in read_jsonl(folder / "samples.jsonl")],
        wrong=[to_sample(row) for row in read_jsonl(folder / "wrong.jsonl")],
    )
    record.inputs = _inputs(record, as_dict(manifest.get("inputs"))) or _planned_inputs(config)
    return record


def _machine(noted: dict[str, Any]) -> dict[str, Any]:
    """Return `machine` and `gpus` of a record, from what the stage's worker noted."""
    names, processor = noted.get("gpus"), noted.get("processor")
    if not isinstance(names, list) or not isinstance(processor, str):
        return {}
    if names:
        counted = Counter(map(str, names)).items()
        text = ", ".join(name if n == 1 else f"{n} × {name}" for name, n in counted)
    else:
        threads = noted.get("threads")
        text = f"{processor}, {threads} thread{'' if threads == 1 else 's'}"
    return {"machine": text, "gpus": len(names)}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return a logged row with its wall-clock figures beside the others."""
    return {**row, **as_dict(row.get("timing"))}


def _inputs(record: StageRecord, table: dict[str, Any]) -> list[Input]:
    return [
        Input(
            slot=slot,
            path=str(entry.get("path") or ""),
            stage=entry.get("stage"),
            fingerprint=entry.get("fingerprint"),
            edge=_edge(slot, record.kind),
        )
        for slot, entry in table.items()
        if isinstance(entry, dict)
    ]


def _planned_inputs(config: dict[str, Any]) -> list[Input]:
    """Arrows of a stage that has no manifest yet, from its config; stages are linked later."""
    data = as_dict(config.get("data"))
    slots: dict[str, Any] = {
        "init_from": config.get("init_from"),
        "teacher": config.get("teacher"),
        "data": data.get("path"),
        "few_shot": as_dict(config.get("few_shot")).get("path"),
    }
    for key, source in as_dict(data.get("mix")).items():
        slots[f"data.mix.{key}"] = as_dict(source).get("path")
    kind = str(config.get("kind") or "")
    return [
        Input(slot, str(path), None, None, _edge(slot, kind))
        for slot, path in slots.items()
        if path
    ]


def _edge(slot: str, kind: str) -> str:
    if slot == "teacher" or (slot == "init_from" and kind in ("sample", "eval")):
        return "teacher"
    return "weights" if slot == "init_from" else "data"


def _link(records: dict[str, StageRecord]) -> None:
    """Find the stage behind arrows that only have a path."""
    places = {str(r.config.get("output_dir")): n for n, r in records.items() if r.config}
    for record in records.values():
        record.inputs = [
            i
            if i.stage
            else Input(i.slot, i.path, places.get(i.path.rstrip("/")), i.fingerprint, i.edge)
            for i in record.inputs
        ]


def _evaluation(path: Path) -> dict[str, Decoding]:
    def metrics(table: Any) -> dict[str, Estimate]:
        found = {name: _estimate(value) for name, value in as_dict(table).items()}
        return {name: value for name, value in found.items() if value is not None}

    return {
        name: Decoding(
            temperature=float(entry.get("temperature") or 0.0),
            overall=metrics(entry.get("overall")),
            tasks={task: metrics(t) for task, t in as_dict(entry.get("tasks")).items()},
            domains={domain: metrics(t) for domain, t in as_dict(entry.get("domains")).items()},
        )
        for name, entry in as_dict(read_json(path).get("decodings")).items()
        if isinstance(entry, dict)
    }


def _estimate(value: Any) -> Estimate | None:
    if not isinstance(value, dict) or not is_number(value.get("mean")):
        return None
    mean = float(value["mean"])
    low, high = (value[k] if is_number(value.get(k)) else mean for k in ("low", "high"))
    return Estimate(mean, float(low), float(high), int(value.get("n") or 0))


def to_sample(row: dict[str, Any]) -> Sample:
    """Read a row of samples.jsonl or of a sampled data set; its total is the mean reward."""
    rewards = {k: v if is_number(v) else None for k, v in as_dict(row.get("rewards")).items()}
    applicable = [v for v in rewards.values() if v is not None]
    text: dict[str, Any] = {key: plain_text(row.get(key)) for key in SAMPLE_TEXTS}
    total = sum(applicable) / len(applicable) if applicable else 0.0
    length = row.get("length")
    return Sample(
        **text, length=length if isinstance(length, int) else None, rewards=rewards, total=total
    )


def plain_text(value: Any) -> str:
    """Return a prompt or completion as text; TRL's message lists become their contents."""
    if isinstance(value, list):
        return "\n".join(plain_text(m.get("content")) for m in value if isinstance(m, dict))
    return "" if value is None else str(value)


def _rows(folder: Path, metrics: dict[str, Any]) -> int | None:
    for key in ("rows", "kept", "num_rows"):
        if isinstance(metrics.get(key), int):
            return metrics[key]
    path = folder / "dataset" / "rows.jsonl"
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return sum(1 for line in stream if line.strip())


def _parameters(folder: Path, metrics: dict[str, Any]) -> int | None:
    """Number of weights, from the metrics or from the headers of the safetensors files."""
    for key in ("parameters", "num_parameters"):
        if isinstance(metrics.get(key), int):
            return metrics[key]
    total = 0
    for path in sorted((folder / "model").glob("*.safetensors")):
        try:
            with path.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(size, 100_000_000)))
            shapes = [t["shape"] for name, t in header.items() if name != "__metadata__"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        total += sum(math.prod(shape) for shape in shapes)
    return total or None


def _log_tail(folder: Path, size: int = 4000) -> str:
    logs = sorted((folder / "logs").glob("*.log"), key=lambda p: p.stat().st_mtime)
    if not logs:
        return ""
    text = logs[-1].read_bytes()[-size:].decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-12:])
