"""Reinforcement learning by group-relative policy optimisation (TRL's GRPOTrainer)."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial

from trl.trainer import grpo_trainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from r1pipe.data.prompts import render_prompt
from r1pipe.data.sources import check_prompt_lengths, load_data
from r1pipe.models.loading import load_causal_lm, load_tokenizer, lora_config
from r1pipe.rewards.ahead import Ahead, RewardAhead
from r1pipe.rewards.building import build_rewards
from r1pipe.rewards.guarded import FAILURES_FILE, GuardedReward
from r1pipe.schema import GrpoStage
from r1pipe.stages.by_task import RewardsByTask
from r1pipe.stages.checkpoint import WholeCheckpoints
from r1pipe.stages.context import Outcome, StageContext
from r1pipe.stages.dynamic_sampling import DynamicSampling
from r1pipe.stages.guards import FiniteSteps
from r1pipe.stages.length_split import SplitByLength
from r1pipe.stages.mismatch import MismatchTelemetry
from r1pipe.stages.one_pass import OnePassCorrection
from r1pipe.stages.packed import PackedScoring
from r1pipe.stages.partial_rollouts import PartialGroups, begin_partial_rollouts
from r1pipe.stages.preflight import preflight
from r1pipe.stages.reference import follow_the_policy
from r1pipe.stages.rewards_ahead import RewardsAhead, working_ahead
from r1pipe.stages.rollouts import (
    compact_rollout,
    context_room,
    engine_beside,
    keep_tables_silent,
)
from r1pipe.stages.router_replay import RouterReplay, require_routers
from r1pipe.stages.sampling_control import sampling_control
from r1pipe.stages.telemetry import SecondsByPhase
from r1pipe.stages.training import run_training, trainer_config


class R1GRPOTrainer(
    FiniteSteps,
    WholeCheckpoints,
    DynamicSampling,
    PartialGroups,
    SplitByLength,
    RewardsAhead,
    MismatchTelemetry,
    RewardsByTask,
    RouterReplay,
    OnePassCorrection,
    PackedScoring,
    SecondsByPhase,
    GRPOTrainer,
):
    """TRL's trainer with whole checkpoints and finite numbers; keeps completions, prints none."""

    prompts_dropped = 0
    """Rows left out because they and a completion are longer than the context."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_runtime" in logs:  # the last summary: its completions were kept already
            keep, self.log_completions = self.log_completions, False
            super().log(logs, start_time)
            self.log_completions = keep
            return
        super().log(logs, start_time)


def run(context: StageContext) -> Outcome:
    """Train `init_from` on the rewards of its own completions."""
    started = time.perf_counter()
    stage = context.stage
    assert isinstance(stage, GrpoStage)
    keep_tables_silent(grpo_trainer)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func` is known to be
    tokenizer = load_tokenizer(stage.init_from, stage.load)
    render = partial(render_prompt, tokenizer=tokenizer)
    funcs, weights = build_rewards(stage.rewards, render)
    args = trainer_config(
        GRPOConfig,
        context,
        log_completions=True,
        reward_weights=weights,
    )
    model = load_causal_lm(stage.init_from, stage.load)
    where = f"stages.{context.name}.router_replay"
    require_routers(model, where, stage.router_replay, stage.rollout)
    follow_the_policy(grpo_trainer, stage)
    data = load_data(stage.data, stage.seed, need=("prompt",))
    written, longest = args.max_completion_length or 0, context_room(model, stage.rollout)
    asked = len(data)
    if longest is not None:
        data = check_prompt_lengths(data, tokenizer, longest - written, stage.data.overlong)
    preflight(data, tokenizer, stage.rewards, funcs, written, longest)
    # TRL writes its own completions; a gold one in the row would only be copied around.
    data = data.remove_columns([c for c in ("completion",) if c in data.column_names])
    funcs = working_ahead(funcs, stage.rollout.overlap_rewards)
    trainer = R1GRPOTrainer(
        model=model,
        reward_funcs=[GuardedReward(func, context.workdir / FAILURES_FILE) for func in funcs],
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora_config(stage.lora),
        rollout_func=compact_rollout(stage.rollout),
    )
    trainer.router_replay = stage.router_replay
    trainer.max_tokens_per_microbatch = stage.max_tokens_per_microbatch
    trainer.padding_free = stage.padding_free
    trainer.ahead = Ahead([func for func in funcs if isinstance(func, RewardAhead)])
    trainer.prompts_dropped = asked - len(data)
    trainer.sampling = sampling_control(stage, trainer)
    with engine_beside(trainer, stage.rollout, stage.init_from, stage.load):
        begin_partial_rollouts(trainer, stage, context.name)
        outcome = run_training(trainer, context, started)
    if trainer.sampling is None:
        return outcome
    return replace(outcome, metrics=outcome.metrics | {"sampling": trainer.sampling.outcome()})
