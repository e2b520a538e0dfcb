"""Distillation of a teacher's token distributions on the student's completions (TRL)."""

from __future__ import annotations

import time
from typing import Any

from trl.trainer import distillation_trainer
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer

from r1pipe.data.sources import check_prompt_lengths, load_data
from r1pipe.models.deepseek import AuxiliaryDistillation
from r1pipe.models.loading import load_causal_lm, load_tokenizer, lora_config
from r1pipe.schema import DistillStage, Rollout
from r1pipe.stages.checkpoint import WholeCheckpoints
from r1pipe.stages.context import Outcome, StageContext
from r1pipe.stages.guards import FiniteSteps
from r1pipe.stages.rollouts import (
    context_room,
    engine_beside,
    keep_tables_silent,
    uses_compact,
    write_completions,
)
from r1pipe.stages.telemetry import SecondsByPhase
from r1pipe.stages.training import run_training, trainer_config


class R1DistillationTrainer(
    FiniteSteps, WholeCheckpoints, AuxiliaryDistillation, SecondsByPhase, DistillationTrainer
):
    """TRL's trainer with whole checkpoints, finite numbers, and our own engines."""

    compact: Rollout | None = None
    """Settings of the compact loop; None leaves the writing to TRL."""
    prompts_dropped = 0
    """Rows left out because they and a completion are longer than the context."""
    engine: Any = None
    """vLLM, here or behind a server; None leaves the writing to TRL or the compact loop."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if self.engine is not None:
            if self.state.global_step != self._last_loaded_step:
                self.engine.sync_weights()
                self._last_loaded_step = self.state.global_step
            return self.engine.write(prompt_ids).ids
        if self.compact is None:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return write_completions(self, prompt_ids, self.compact)


def run(context: StageContext) -> Outcome:
    """Train the student `init_from` towards `teacher`, which has the same vocabulary."""
    started = time.perf_counter()
    stage = context.stage
    assert isinstance(stage, DistillStage)
    keep_tables_silent(distillation_trainer)
    args = trainer_config(DistillationConfig, context)
    tokenizer = load_tokenizer(stage.init_from, stage.load)
    model = load_causal_lm(stage.init_from, stage.load)
    data = load_data(stage.data, stage.seed, need=("prompt",)).select_columns(["prompt"])
    asked = len(data)
    if (longest := context_room(model, stage.rollout)) is not None:
        room = longest - (args.max_completion_length or 0)
        data = check_prompt_lengths(data, tokenizer, room, stage.data.overlong)
    trainer = R1DistillationTrainer(
        model=model,
        teacher_model=load_causal_lm(stage.teacher, stage.load),
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora_config(stage.lora),
    )
    if uses_compact(stage.rollout):
        trainer.compact = stage.rollout
    trainer.prompts_dropped = asked - len(data)
    with engine_beside(trainer, stage.rollout, stage.init_from, stage.load) as engine:
        trainer.engine = engine
        return run_training(trainer, context, started)
