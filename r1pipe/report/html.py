"""Writes a run as one self-contained page: no server, no network, no script needed to read it."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from r1pipe import artifact
from r1pipe.report import compare, plots, samples
from r1pipe.report.collect import collect
from r1pipe.report.lineage import EDGE_TITLES, draw_lineage
from r1pipe.report.records import Estimate, RunRecord, StageRecord

HERE = Path(__file__).parent
PAGE, PICTURE = "report.html", "report.png"
HIDDEN_CHANGES = ("output_dir",)
DASH = "–"


def write_html(run_dir: Path) -> Path:
    """Write `report.html`, and `report.png` when a model was evaluated; returns the page."""
    run = collect(run_dir)
    path = run_dir / PAGE
    artifact.write_aside(path, render(run))
    plots.write_png(run, run_dir / PICTURE)
    return path


def render(run: RunRecord) -> str:
    """Return the page of a run."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        percent=percent,
        interval=interval,
        points=lambda change: f"{100 * change.value:+.1f}".replace("-", "−"),
        duration=compare.duration,
        count=compare.short_count,
        task_title=compare.task_title,
        decoding_title=compare.decoding_title,
    )
    script = (HERE / "page.js").read_text(encoding="utf-8")
    text = environment.get_template("template.html").render(
        run=run,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headline=compare.headline(run),
        **_facts(run),
        **_pictures(run),
        stages=[stage_view(run, stage) for stage in run.stages],
        journeys=samples.journeys(run),
    )
    return samples.visible(text)  # wherever it came from, nothing on the page is obeyed


def _facts(run: RunRecord) -> dict[str, Any]:
    names = compare.decodings(run)
    created = [s.created for s in run.every_stage if s.created]
    sizes = sorted(
        {
            estimate.n
            for stage in run.models
            for decoding in stage.evaluation.values()
            for task in compare.reasoning_tasks(run)
            if (estimate := decoding.tasks.get(task, {}).get("accuracy"))
        }
    )
    rows = compare.time_rows(run)
    return {
        "decodings": names,
        "gains": {name: compare.gains(run, name) for name in names},
        "tasks": compare.reasoning_tasks(run),
        "other_domains": compare.other_domains(run),
        "task_sizes": sizes,
        "date": _date(max(created, default=None)),
        "times": rows,
        "phases": compare.phase_names(rows),
        "longest": max((row.wall or 0 for row in rows), default=0) or 1,
        "total_seconds": compare.total_seconds(run),
        "elapsed": compare.elapsed_seconds(run),
        "versions": versions(run),
        "codes": sorted({json.dumps(s.code, sort_keys=True) for s in run.stages if s.code}),
        "code_version": next((str(s.code.get("version")) for s in run.stages if s.code), None),
        "edge_titles": EDGE_TITLES,
        "dash": DASH,
    }


def _pictures(run: RunRecord) -> dict[str, Any]:
    measured = bool(plots.accuracy_rows(run, None))
    return {
        "hero": _trusted(plots.draw_accuracy(run, None, 7.9)) if measured else None,
        "hero_narrow": _trusted(plots.draw_accuracy(run, None, 3.9)) if measured else None,
        "by_operation": [_trusted(picture) for picture in plots.draw_operations(run)],
        "lineage": draw_lineage(run),
    }


def _trusted(picture: plots.Picture) -> Markup:
    """Mark a drawing as HTML: matplotlib escapes text itself, the alt text is escaped by us."""
    return Markup(picture.svg)


def stage_view(run: RunRecord, stage: StageRecord) -> dict[str, Any]:
    """Return what the page shows of one stage."""
    earlier = previous_of_kind(run, stage)
    return {
        "record": stage,
        "curves": [_trusted(picture) for picture in plots.draw_panels(stage)],
        "earlier": earlier,
        "changes": config_changes(run, earlier, stage) if earlier else [],
        "config": json.dumps(stage.config, indent=2, ensure_ascii=False),
        "time": compare.time_row(stage),
        "pairs": samples.before_after(run, stage),
        "decoding": samples.shown_decoding(stage),
        "training": samples.training_samples(stage),
        "wrong": samples.first_wrong(stage),
        "kept": samples.kept_samples(stage) if stage.kind == "sample" else [],
        "changed_scores": score_changes(run, stage),
    }


def score_changes(run: RunRecord, stage: StageRecord) -> list[tuple[str, str, compare.Change]]:
    """Return (measure, decoding, change) of a stage against the one it was trained from."""
    parent = run.stage(stage.start)
    if parent is None:
        return []
    found = []
    for name in compare.decodings(run):
        after, before = stage.decoding(name), parent.decoding(name)
        if after is None or before is None:
            continue
        measures: list[tuple[str, Estimate | None, Estimate | None]] = [
            ("accuracy", after.accuracy, before.accuracy)
        ]
        for metric in ("format", "language"):
            now, then = (d.scope("reasoning").get(metric) for d in (after, before))
            measures.append((metric, now, then))
        measures.append(("general tasks", after.general, before.general))
        for measure, now, then in measures:
            change = compare.difference(now, then, parent.name)
            if change is not None:
                found.append((measure, name, change))
    return found


def previous_of_kind(run: RunRecord, stage: StageRecord) -> StageRecord | None:
    """Return the last stage of the same kind before this one."""
    before = run.stages[: run.stages.index(stage)]
    return next((s for s in reversed(before) if s.kind == stage.kind), None)


def config_changes(
    run: RunRecord, before: StageRecord, after: StageRecord
) -> list[tuple[str, str | None, str | None]]:
    """Return (dotted key, before, after) of every setting that differs; None where it is absent."""
    old, new = flat(before.config), flat(after.config)
    keys = [k for k in {**old, **new} if k.split(".")[-1] not in HIDDEN_CHANGES]
    return [
        (key, _setting(run, old, key), _setting(run, new, key))
        for key in keys
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    ]


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as {dotted key: value}; lists and empty mappings stay values."""
    if not isinstance(config, dict) or not config:
        return {prefix: config} if prefix else {}
    table: dict[str, Any] = {}
    for key, value in config.items():
        table.update(flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return table


def _setting(run: RunRecord, table: dict[str, Any], key: str) -> str | None:
    if key not in table:
        return None
    value = table[key]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    for stage in run.stages:
        if text and text == stage.config.get("output_dir"):
            return stage.name
    return text


def versions(run: RunRecord) -> list[tuple[str, str, list[str]]]:
    """Return (package, version, stages); the stages are named only where not all agree.

    The machine is listed like a package: the name of its GPUs or processor is its version.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for stage in run.stages:
        machine = {"machine": stage.machine} if stage.machine else {}
        for package, version in [*machine.items(), *stage.versions.items()]:
            found.setdefault((package, version), []).append(stage.name)
    packages = [package for package, _ in found]
    return [
        (package, version, names if packages.count(package) > 1 else [])
        for (package, version), names in sorted(found.items())
    ]


def percent(value: Estimate | None) -> str:
    return DASH if value is None else f"{100 * value.mean:.1f}"


def interval(value: Estimate | compare.Change | None) -> str:
    """Return an interval in per cent or points, joined by a dash, by `to` below zero."""
    if value is None:
        return ""
    low, high = f"{100 * value.low:.1f}", f"{100 * value.high:.1f}"
    joint = " to " if value.low < 0 else DASH
    return f"{low}{joint}{high}".replace("-", "−")


def _date(text: str | None) -> str | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).strftime("%-d %B %Y, %H:%M %Z").strip()
    except ValueError:
        return text
