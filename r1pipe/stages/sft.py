"""Supervised fine-tuning of a model on rows of prompt and completion, or of text."""

from __future__ import annotations

import time

from r1pipe.data.sources import load_data
from r1pipe.models.loading import load_causal_lm, load_tokenizer, lora_config
from r1pipe.schema import SftStage
from r1pipe.stages.context import Outcome, StageContext
from r1pipe.stages.supervised import supervised_trainer
from r1pipe.stages.training import run_training


def run(context: StageContext) -> Outcome:
    """Train `init_from` on the completions of `data`."""
    started = time.perf_counter()
    stage = context.stage
    assert isinstance(stage, SftStage)
    trainer = supervised_trainer(
        context,
        load_causal_lm(stage.init_from, stage.load),
        load_tokenizer(stage.init_from, stage.load),
        load_data(stage.data, stage.seed),
        lora_config(stage.lora),
    )
    return run_training(trainer, context, started)
