"""The plan: stages in order, the arrows between them, and which of them must run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r1pipe.artifact import MODEL_DIR, Artifact, looks_local, read_artifact
from r1pipe.data.files import check_file
from r1pipe.errors import Problem, UserError, did_you_mean
from r1pipe.fingerprint import PathDigests, stage_fingerprint
from r1pipe.models.folder import folder_problem
from r1pipe.schema import EVAL_SUFFIX, MODEL_KINDS, Data, Run, Stage

Wanted = Literal["model", "dataset", "any"]
NOT_CHOSEN = "not chosen"
CHECKED_FILE_BYTES = 64 << 20
"""Local JSONL files up to this size are read through before anything starts."""


@dataclass(frozen=True)
class Input:
    """One arrow: a stage's field, what it names, and the stage that makes it (or None)."""

    field: str
    reference: str
    wanted: Wanted
    producer: str | None


@dataclass
class PlannedStage:
    name: str
    stage: Stage
    inputs: list[Input]
    fingerprint: str = ""
    action: Literal["run", "resume", "skip"] = "run"
    why: str = ""

    @property
    def output(self) -> Path:
        return Path(self.stage.output_dir)

    @property
    def producers(self) -> list[str]:
        return [arrow.producer for arrow in self.inputs if arrow.producer]


@dataclass
class Plan:
    run: Run
    run_dir: Path
    stages: dict[str, PlannedStage] = field(default_factory=dict)

    @property
    def partial(self) -> Path:
        return self.run_dir / ".partial"

    def dependents(self, name: str) -> set[str]:
        """Return the stages that need stage `name`, directly or through others."""
        found: set[str] = set()
        for planned in self.stages.values():  # producers come first
            if not found.union({name}).isdisjoint(planned.producers):
                found.add(planned.name)
        return found


def make_plan(run: Run) -> Plan:
    """Return the stages in an order that follows the arrows, each marked run, resume or skip.

    Raises UserError with every wrong arrow: a cycle, a data set where a model is needed, a file
    that is missing or cannot be read.
    """
    run_dir = Path(run.output_root) / run.name
    producers = {str(Path(stage.output_dir)): name for name, stage in run.stages.items()}
    planned = {
        name: PlannedStage(name, stage, list(_inputs(stage, producers)))
        for name, stage in run.stages.items()
    }
    problems = [p for stage in planned.values() for p in _arrow_problems(stage, planned)]
    order, cycle = _in_order(planned)
    if cycle:
        text = " -> ".join([*cycle, cycle[0]])
        what = f"the arrows go in a circle: {text}"
        problems.append(Problem(f"stages.{cycle[0]}", what))
    if problems:
        raise UserError(problems)
    plan = Plan(run, run_dir, {name: planned[name] for name in order})
    _mark(plan)
    return plan


def _inputs(stage: Stage, producers: dict[str, str]) -> Iterator[Input]:
    def arrow(key: str, reference: str, wanted: Wanted) -> Input:
        return Input(key, reference, wanted, producers.get(str(Path(reference))))

    for key in ("init_from", "teacher"):
        if (reference := getattr(stage, key, None)) is not None:
            yield arrow(key, reference, "model")
    data: Data = stage.data
    if data.path is not None:
        yield arrow("data.path", data.path, "dataset")
    for name, source in data.mix.items():
        if source.path is not None:
            yield arrow(f"data.mix.{name}.path", source.path, "dataset")
    if few_shot := getattr(stage, "few_shot", None):
        yield arrow("few_shot.path", few_shot.path, "dataset")


def produced_kind(kind: str) -> str:
    """Return what a stage of this kind leaves: model, dataset or evaluation."""
    if kind in MODEL_KINDS:
        return "model"
    return "dataset" if kind == "sample" else "evaluation"


def _arrow_problems(planned: PlannedStage, stages: dict[str, PlannedStage]) -> Iterator[Problem]:
    for arrow in planned.inputs:
        key = f"stages.{planned.name}.{arrow.field}"
        if arrow.producer is not None:
            made = produced_kind(stages[arrow.producer].stage.kind)
            if made != arrow.wanted:
                what = f"needs a {arrow.wanted}, but stage `{arrow.producer}` makes {_a(made)}"
                yield Problem(key, what)
        else:
            yield from _outside_problems(key, arrow, planned.stage)


def _outside_problems(key: str, arrow: Input, stage: Stage) -> Iterator[Problem]:
    path = Path(arrow.reference).expanduser()
    artifact = read_artifact(path)
    if artifact is not None and artifact.kind != arrow.wanted:
        yield Problem(key, f"needs a {arrow.wanted}, but `{path}` holds {_a(artifact.kind)}")
    elif not path.exists() and looks_local(arrow.reference):
        there = (entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, there)
        yield Problem(key, f"no such file or folder: `{arrow.reference}`", hint)
    elif arrow.wanted == "model":
        tokenizer = stage.load.tokenizer if arrow.field == "init_from" else None
        problem = folder_problem(arrow.reference)
        problem = problem or folder_problem(tokenizer or arrow.reference, "tokenizer")
        if problem:
            yield Problem(key, f"`{problem.where}`: {problem.what}", problem.hint)
    elif artifact is None:
        yield from check_file(path, *_columns(arrow, stage), most_bytes=CHECKED_FILE_BYTES)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _columns(arrow: Input, stage: Stage) -> tuple[set[str], dict[str, str]]:
    """Return the columns a stage needs of a file, and how they are called there."""
    source = stage.data
    if arrow.field.startswith("data.mix."):
        source = stage.data.mix[arrow.field.split(".")[2]]
    needed = {"prompt", "completion"} if stage.kind == "sft" else {"prompt"}
    if stage.kind in ("pretrain", "sft") and "text" in source.columns:
        needed = {"text"}
    return needed, dict(source.columns)


def _in_order(stages: dict[str, PlannedStage]) -> tuple[list[str], list[str]]:
    """Return stage names with producers first (recipe order otherwise), and a cycle if any."""
    order: list[str] = []
    open_path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in order:
            return []
        if name in open_path:
            return open_path[open_path.index(name) :]
        open_path.append(name)
        for producer in stages[name].producers:
            if cycle := visit(producer):
                return cycle
        open_path.pop()
        order.append(name)
        return []

    for name in stages:
        if cycle := visit(name):
            return order, cycle
    return order, []


def _mark(plan: Plan) -> None:
    digests = PathDigests(Path(plan.run.output_root) / ".digests.json")
    chosen = _chosen(plan)
    forced: set[str] = set()
    for planned in plan.stages.values():
        inputs = {
            arrow.field: plan.stages[arrow.producer].fingerprint
            if arrow.producer
            else _outside_fingerprint(arrow.reference, digests)
            for arrow in planned.inputs
        }
        planned.fingerprint = stage_fingerprint(planned.stage, inputs)
        if planned.name == plan.run.from_stage or forced & set(planned.producers):
            forced.add(planned.name)
        planned.action, planned.why = _decide(plan, planned, planned.name in forced)
        if planned.name not in chosen and planned.action != "skip":
            planned.action, planned.why = "skip", NOT_CHOSEN
    if not plan.run.dry_run:
        digests.save()
    _check_chosen(plan, chosen)


def _chosen(plan: Plan) -> set[str]:
    """Return the stages that `only` and `until` leave: all of them without either."""
    chosen = set(plan.stages)
    if plan.run.only is not None:
        chosen &= {plan.run.only} if isinstance(plan.run.only, str) else set(plan.run.only)
    if plan.run.until is not None:
        needed, todo = set[str](), [plan.run.until]
        while todo:
            name = todo.pop()
            if name not in needed:
                needed.add(name)
                todo += plan.stages[name].producers
        chosen &= needed | {plan.run.until + EVAL_SUFFIX}
    return chosen


def _outside_fingerprint(reference: str, digests: PathDigests) -> str:
    artifact = read_artifact(Path(reference))
    return artifact.fingerprint if artifact else digests.of(reference)


def _decide(
    plan: Plan, planned: PlannedStage, forced: bool
) -> tuple[Literal["run", "resume", "skip"], str]:
    artifact = read_artifact(planned.output)
    if forced:
        return "run", "asked for"
    if artifact is not None:
        if artifact.fingerprint == planned.fingerprint:
            wrong = artifact.damage()
            return ("run", f"damaged: {wrong}") if wrong else ("skip", "finished")
        return "run", changes(artifact, planned)
    partial = read_partial(plan.partial / planned.name)
    if partial.get("fingerprint") == planned.fingerprint:
        return "resume", "interrupted"
    return "run", "config changed" if partial else "new"


def read_partial(workdir: Path) -> dict[str, Any]:
    """Return what is known of a stage in progress, {} when there is none."""
    try:
        loaded = json.loads((workdir / "stage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def changes(artifact: Artifact, planned: PlannedStage) -> str:
    """Say in a few words why a finished stage has to run again."""
    old = artifact.manifest.get("config", {})
    new = planned.stage.model_dump(mode="json")
    keys = sorted(_differences(old, new, ""))
    keys = [key for key in keys if not key.startswith(("output_dir", "tracker", "launcher.name"))]
    if keys:
        more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
        return f"changed: {', '.join(keys[:2])}{more}"
    return "an input or the code changed"


def _differences(old: Any, new: Any, key: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield key


def _check_chosen(plan: Plan, chosen: set[str]) -> None:
    """Inputs that are neither finished nor chosen are an error."""
    problems = []
    for name in sorted(chosen & plan.stages.keys()):
        for producer in plan.stages[name].producers:
            planned = plan.stages[producer]
            if planned.why == NOT_CHOSEN:
                hint = f"run it first: `only=[{producer},{name}]`"
                what = f"needs stage `{producer}`, which has no finished result"
                problems.append(Problem(f"only.{name}", what, hint))
    if problems:
        raise UserError(problems)


def has_model(folder: Path) -> bool:
    """Whether a finished artifact holds weights that can be opened."""
    return any((folder / MODEL_DIR).glob("*.safetensors"))
