"""What a report knows of a run: plain records of stages, scores and samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL_KINDS = ("pretrain", "sft", "grpo", "distill")


@dataclass(frozen=True)
class Estimate:
    """A measured mean with its 95 % interval over `n` rows (shares are 0..1, lengths tokens)."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Decoding:
    """What one way of decoding scored: metric name -> estimate, in all, per task, per domain."""

    temperature: float
    overall: dict[str, Estimate]
    tasks: dict[str, dict[str, Estimate]]
    domains: dict[str, dict[str, Estimate]]

    def scope(self, domain: str) -> dict[str, Estimate]:
        """Return the metrics of one domain; a run without domains has only `overall`."""
        if domain == "reasoning":
            return self.domains.get(domain) or self.overall
        return self.domains.get(domain, {})

    @property
    def accuracy(self) -> Estimate | None:
        return self.scope("reasoning").get("accuracy")

    @property
    def general(self) -> Estimate | None:
        scores = self.scope("general")
        return scores.get("accuracy") or scores.get("general")


@dataclass(frozen=True)
class Sample:
    """One completion with its rewards; `step` is set for what was written during training."""

    id: str
    prompt: str
    answer: str
    domain: str
    task: str
    language: str
    decoding: str
    completion: str
    length: int | None
    rewards: dict[str, float | None]
    total: float
    step: int | None = None


@dataclass(frozen=True)
class Input:
    """An arrow into a stage, from another stage or from outside; `slot` is the manifest's name."""

    slot: str
    path: str
    stage: str | None
    fingerprint: str | None
    edge: str
    """`weights`, `data` or `teacher`."""


@dataclass(eq=False)
class StageRecord:
    """Everything known about one stage; `evaluation` is that of the model it made."""

    name: str
    kind: str
    status: str
    """`complete`, `unfinished` or `failed` (both in `.partial`), `damaged` or `not run`."""
    path: Path | None = None
    fingerprint: str | None = None
    inputs: list[Input] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: str | None = None
    """Its GPUs by name, else the processor and how many threads; None where nobody noted it."""
    gpus: int | None = None
    """How many GPUs it had; None as above."""
    code: dict[str, Any] = field(default_factory=dict)
    created: str | None = None
    attempts: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    log_tail: str = ""
    rows: int | None = None
    parameters: int | None = None
    evaluation: dict[str, Decoding] = field(default_factory=dict)
    evaluation_stage: StageRecord | None = None
    samples: list[Sample] = field(default_factory=list)
    wrong: list[Sample] = field(default_factory=list)
    """The first wrong answers of each task and decoding."""

    @property
    def is_model(self) -> bool:
        return self.kind in MODEL_KINDS

    @property
    def steps(self) -> int | None:
        """Optimizer steps taken, as the stage counted them, else by the last logged one."""
        if isinstance(self.metrics.get("steps"), int):
            return self.metrics["steps"]
        steps = [row["step"] for row in self.history if isinstance(row.get("step"), int)]
        return max(steps) if steps else None

    @property
    def start(self) -> str | None:
        """Name of the stage whose weights this one was trained from."""
        return next((i.stage for i in self.inputs if i.edge == "weights" and i.stage), None)

    @property
    def seconds(self) -> float | None:
        return self.timings.get("wall_s")

    def decoding(self, name: str) -> Decoding | None:
        return self.evaluation.get(name)


@dataclass
class RunRecord:
    """A run: its recipe, and its stages in chain order (evaluations hang on their models)."""

    path: Path
    name: str
    recipe: str
    resolved: dict[str, Any]
    overrides: list[str]
    stages: list[StageRecord]

    def stage(self, name: str | None) -> StageRecord | None:
        return next((s for s in self.stages if s.name == name), None)

    @property
    def models(self) -> list[StageRecord]:
        return [s for s in self.stages if s.is_model]

    @property
    def every_stage(self) -> list[StageRecord]:
        """Stages and the evaluations that hang on them."""
        evals = [s.evaluation_stage for s in self.stages if s.evaluation_stage]
        return [*self.stages, *evals]

    def root(self, stage: StageRecord) -> StageRecord:
        """Return the first stage of the weights `stage` was trained from (`base` of the chain)."""
        seen = {stage.name}
        while (parent := self.stage(stage.start)) is not None and parent.name not in seen:
            seen.add(parent.name)
            stage = parent
        return stage

    @property
    def final(self) -> StageRecord | None:
        """The last measured model of the family with the most stages, or None."""
        measured = [s for s in self.models if s.evaluation]
        if not measured:
            return None
        roots = [self.root(s).name for s in self.models]
        main = max(roots, key=lambda name: (roots.count(name), -roots.index(name)))
        family = [s for s in measured if self.root(s).name == main]
        return family[-1] if family else measured[-1]
