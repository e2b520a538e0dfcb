"""The contract: what a recipe may say, as types. Defaults live in conf/, meanings live here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from r1pipe.schema_parts import (
    Data,
    FewShot,
    Fp8,
    Launcher,
    Load,
    Lora,
    Model,
    Rewards,
    RewardTerm,
    Rollout,
    Sampling,
    Source,
    Strict,
    Tracker,
)

__all__ = [
    "EVAL_SUFFIX",
    "MODEL_KINDS",
    "Auxiliary",
    "Data",
    "DifficultyFilter",
    "DistillStage",
    "DynamicSampling",
    "EvalStage",
    "FewShot",
    "Fp8",
    "GroupReplay",
    "GrpoStage",
    "Launcher",
    "Load",
    "Lora",
    "Model",
    "PartialRollouts",
    "PassRate",
    "PretrainStage",
    "RewardTerm",
    "Rewards",
    "Rollout",
    "Run",
    "SampleStage",
    "Sampling",
    "SftStage",
    "Source",
    "Stage",
    "StageBase",
    "Strict",
    "Supervised",
    "Tokens",
    "Tracker",
    "Trained",
]


class StageBase(Strict):
    output_dir: str
    seed: int = Field(ge=0, lt=1 << 32)
    launcher: Launcher
    tracker: Tracker


class Auxiliary(Strict):
    """What DeepSeek-V3 trains beside the loss; null is what the model's config.json says.

    These hold for the stage alone. Models without routed experts or MTP modules have no use for
    them. V3 is its technical report, arXiv 2412.19437.
    """

    bias_update_speed: float | None = Field(default=None, ge=0)
    """gamma: what a router's bias moves per optimizer step (V3 2.1.2; 4.2: 0.001); 0 keeps it."""
    bias_frozen_from: int | float | None = Field(default=None, ge=0)
    """Optimizer step from which gamma is 0 (V3 4.2: for the last 500 B tokens); null: never.
    Below 1: a share of all steps."""
    balance_factor: float | None = Field(default=None, ge=0)
    """alpha: weight of the sequence-wise balance loss (V3 eq. 17; 4.2: 0.0001)."""
    mtp_loss_weight: float | None = Field(default=None, ge=0)
    """lambda: weight of the MTP losses (V3 eq. 25; 4.2: 0.3, later 0.1); 0 freezes the modules."""


class Trained(StageBase):
    load: Load
    auxiliary: Auxiliary = Auxiliary()
    trainer: dict[str, Any]
    """Passed to the TRL config of this kind, names unchanged; checked against its fields."""


class Supervised(Trained):
    data: Data
    length_window: int = Field(ge=0)
    """Batches per window in which rows are sorted by length, so that batches pad little; 0: off."""


class PretrainStage(Supervised):
    kind: Literal["pretrain"]
    architecture: str
    """Registered model builder, made from a config with random weights."""
    size: str | None = None
    """One of `sizes`, or of the builder's own."""
    config: dict[str, Any] = Field(default_factory=dict)
    sizes: dict[str, dict[str, Any]] = Field(default_factory=dict)


class SftStage(Supervised):
    kind: Literal["sft"]
    init_from: str
    lora: Lora | None


def _whole_number_or_auto(value: Any, check: Any) -> Any:
    """Say in one sentence what each type of the union would say by itself."""
    try:
        return check(value)
    except ValidationError:
        expected = "expected a whole number from 1 on, `auto` or null"
        raise PydanticCustomError("tokens", expected) from None


Tokens = Annotated[
    Annotated[int, Field(ge=1)] | Literal["auto"] | None, WrapValidator(_whole_number_or_auto)
]


class DynamicSampling(Strict):
    """Batches of groups whose rewards differ, refilled from further prompts (DAPO, arXiv
    2503.14476, section 3.2): a group that earned the same throughout has no advantage."""

    enabled: bool
    max_rounds: int = Field(ge=1)
    """Times the engine is asked for one batch. What is still missing then is taken from
    `group_replay`, and last from groups without spread; the log counts both."""
    oversampling: float = Field(ge=1, le=64)
    """Prompts of the first round over those of a batch; also the most that any round asks."""
    reward: str | None
    """The reward whose spread counts; null: the weighted sum of all."""


class PartialRollouts(Strict):
    """The longest completions of a step are cut off and continued in the next one, so that nobody
    waits for them (Kimi k1.5, arXiv 2501.12599, 2.6.2; APRIL, arXiv 2509.18521)."""

    enabled: bool
    ahead: float = Field(gt=0, le=1)
    """Groups in flight beyond those of a batch, as a share of them: writing stops when a batch is
    whole. More of them cost more of the oldest policies' tokens."""
    max_staleness: int = Field(ge=1)
    """Optimizer steps from the first token of a completion to its use, at most."""


class DifficultyFilter(Strict):
    """Prompts that were solved always, or never, on their last visits rest for a while."""

    enabled: bool
    reward: str
    """The reward that tells a solved prompt."""
    solved_at: float
    """Its least value in a completion that solves the prompt."""
    window: int = Field(ge=1)
    """Visits in a row, all solved or all unsolved, after which a prompt rests."""
    rest: int = Field(ge=1)
    """Passes over the data in which it is then left out."""
    floor: float = Field(gt=0, le=1)
    """Least share of all prompts in play in every pass; rests end early for it."""


class GroupReplay(Strict):
    """The last groups with spread fill batches that `dynamic_sampling` could not fill.

    They are weighed by the ratio to the policy that wrote them, which costs one more pass over
    every batch for its log-probabilities.
    """

    enabled: bool
    size: int = Field(ge=1)
    """Groups kept; the oldest make room."""
    max_age: int = Field(ge=1)
    """Optimizer steps after which a group is too far from the policy to be used."""


class GrpoStage(Trained):
    kind: Literal["grpo"]
    init_from: str
    lora: Lora | None
    data: Data
    rewards: Rewards
    rollout: Rollout
    router_replay: Literal["none", "policy", "rollout"] = "none"
    """Whose choice of experts the updates on a batch repeat: `none` lets routers choose anew,
    `policy` repeats the old policy's (R2; GSPO, arXiv 2507.18071), `rollout` what the engine used
    while writing (R3; arXiv 2510.11370). For models of DeepSeek-V3's kind."""
    max_tokens_per_microbatch: Tokens = None
    """Tokens, prompts included, of one forward and backward pass: a device's batch is computed in
    parts of up to so many, with the loss and gradient of the whole. `auto` measures on a GPU what
    fits beside weights, optimizer and engine; null: no limit. A row is never cut. Without effect
    under FSDP and DeepSpeed."""
    padding_free: bool | None = None
    """Compute passes on rows one behind the other instead of padded ones; null: on a GPU in 16
    bits, for models of transformers' own attention that pass a comparison with padded rows."""
    loss: str | None = None
    """Preset that `trainer` has its loss from: a file of conf/stage/loss/ (`grpo` is R1's own).

    On the command line it beats what the recipe's `trainer` says; in a recipe it is beaten by it.
    """
    partial_rollouts: PartialRollouts | None = None
    dynamic_sampling: DynamicSampling | None = None
    difficulty_filter: DifficultyFilter | None = None
    group_replay: GroupReplay | None = None


class DistillStage(Trained):
    kind: Literal["distill"]
    init_from: str
    """The student."""
    teacher: str
    lora: Lora | None
    data: Data
    rollout: Rollout


class PassRate(Strict):
    """A range of the share of a prompt's completions that pass, with its ends."""

    min: float = Field(ge=0, le=1)
    max: float = Field(ge=0, le=1)


class SampleStage(StageBase):
    kind: Literal["sample"]
    init_from: str
    load: Load
    data: Data
    sampling: Sampling
    few_shot: FewShot | None
    rewards: Rewards
    keep: dict[str, float | None]
    """Reward name -> least value a kept completion has; null asks for nothing."""
    pass_rate: PassRate | None = None
    """Prompts are kept where this share of their completions passes `keep` and was not cut; every
    kept row has it as its column `pass_rate`. What is then left makes prompts for RL that are
    neither solved nor missed throughout: `{min: 0.1, max: 0.9}`."""
    max_per_prompt: int | None = Field(ge=1)
    max_rows: int | None = Field(ge=1)
    min_rows: int = Field(ge=1)
    """Fewer kept rows than this fail the stage."""
    prefer: Literal["first", "shortest"]
    """Which of several kept completions of a prompt stay."""
    rollout: Rollout


class EvalStage(StageBase):
    kind: Literal["eval"]
    init_from: str
    load: Load
    data: Data
    decodings: dict[str, Sampling]
    """Named ways to decode: greedy, t1 ..."""
    rewards: Rewards
    """Measured on every completion; weights are not used."""
    save_samples: int = Field(ge=0)
    """Completions per task and decoding kept for the report, and as many of the wrong ones."""
    rollout: Rollout


Stage = Annotated[
    PretrainStage | SftStage | GrpoStage | DistillStage | SampleStage | EvalStage,
    Field(discriminator="kind"),
]
MODEL_KINDS = {"pretrain", "sft", "grpo", "distill"}
"""Stage kinds whose artifact is a model; `sample` leaves a data set, `eval` an evaluation."""
EVAL_SUFFIX = "_eval"
"""The evaluation of stage `x` is stage `x_eval`."""


class Run(Strict):
    """A whole recipe, after composition."""

    name: str
    output_root: str
    seed: int = Field(ge=0, lt=1 << 32)
    jobs: int = Field(ge=1)
    """Stages that may run side by side when their inputs are ready."""
    dry_run: bool
    describe: bool = False
    """Print what the model amounts to (parameters, cache, arithmetic) and stop."""
    only: list[str] | str | None
    """Run just these stages (their inputs must be there)."""
    until: str | None
    """Run what this stage needs, this stage and its evaluation, nothing else."""
    from_stage: str | None
    """Run this stage and what comes after it again, even when finished."""
    keep_checkpoints: bool
    """Keep training checkpoints after a stage finished."""
    report: bool
    model: Model
    data: Data
    reward: Rewards
    rollout: Rollout
    launcher: Launcher
    tracker: Tracker
    evaluation: EvalStage | None = None
    """Evaluates every model stage; its `init_from` is filled in."""
    stages: dict[str, Stage]
