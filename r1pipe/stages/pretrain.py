"""Pretraining from random weights: a registered architecture on a corpus."""

from __future__ import annotations

import time

from r1pipe.data.sources import load_data
from r1pipe.data.streaming import is_streamed
from r1pipe.models.building import build_model
from r1pipe.schema import PretrainStage
from r1pipe.stages.context import Outcome, StageContext
from r1pipe.stages.supervised import streaming_trainer, supervised_trainer
from r1pipe.stages.training import run_training


def run(context: StageContext) -> Outcome:
    """Build the architecture and train it on `data`."""
    started = time.perf_counter()
    stage = context.stage
    assert isinstance(stage, PretrainStage)
    model, tokenizer = build_model(stage, context.name)
    if not is_streamed(stage.data, tokenizer):
        rows = load_data(stage.data, stage.seed)
        trainer = supervised_trainer(context, model, tokenizer, rows)
        return run_training(trainer, context, started)
    with streaming_trainer(context, model, tokenizer) as trainer:
        return run_training(trainer, context, started)
