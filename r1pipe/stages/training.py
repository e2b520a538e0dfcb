"""What the trained stages share: the TRL config, the run with its resume, and the saved model."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase, PrinterCallback
from transformers.utils.logging import disable_progress_bar

from r1pipe.artifact import METRICS_FILE, MODEL_DIR
from r1pipe.errors import Problem, UserError
from r1pipe.schema import Trained
from r1pipe.stages.auxiliary import auxiliary_training
from r1pipe.stages.checkpoint import newest_whole_checkpoint
from r1pipe.stages.context import Outcome, StageContext, dropped_prompts
from r1pipe.stages.guards import require_one_batch
from r1pipe.stages.metrics import MetricsFile, read_rows
from r1pipe.stages.telemetry import seconds_apart

Config = TypeVar("Config")
disable_progress_bar()  # one for every shard read or written; the driver shows one for the stage
_PROJECT_VARIABLES = {"wandb": "WANDB_PROJECT", "trackio": "TRACKIO_PROJECT"}


def machine_options() -> dict[str, Any]:
    """Return the options that follow from the machine, not from the recipe.

    A CPU gets float32 without recomputation and without pinned memory: bf16 is emulated on most of
    them, and recomputing saves memory that they have.
    """
    if torch.cuda.is_available():
        return {}
    return {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def trainer_config(config_class: type[Config], context: StageContext, **options: Any) -> Config:
    """Return the TRL config of a stage: `stage.trainer` over machine options, names unchanged.

    `options` are what the other fields of the stage say in TRL's words. Raises UserError for a
    value that TRL refuses.
    """
    stage = context.stage
    assert isinstance(stage, Trained)
    tracker = stage.tracker.name
    if stage.tracker.project and tracker in _PROJECT_VARIABLES:
        os.environ.setdefault(_PROJECT_VARIABLES[tracker], stage.tracker.project)
    given = {
        "disable_tqdm": True,
        # The guards stop at the first non-finite loss; transformers would log an average instead.
        "logging_nan_inf_filter": False,
        "run_name": context.name,
        **machine_options(),
        **options,
        **stage.trainer,
        # Completions and tracker files lie beside the checkpoints, which have their own folder.
        "output_dir": str(context.workdir),
        "seed": stage.seed,
        "report_to": tracker,
    }
    try:
        return config_class(**given)
    except (TypeError, ValueError) as error:
        raise UserError(Problem(f"stages.{context.name}.trainer", str(error))) from error


def run_training(trainer: Any, context: StageContext, started: float) -> Outcome:
    """Train from the newest whole checkpoint (or the start), then leave model and tokenizer.

    `started` is the `time.perf_counter()` of the stage's beginning. Every rank calls this; rank 0
    writes. The model is in `workdir`/model.
    """
    args = trainer.args
    require_one_batch(context.name, len(trainer.train_dataset), args)
    trainer.checkpoint_folder = context.checkpoints
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(MetricsFile(context.workdir / METRICS_FILE, context.progress))
    checkpoint = _agreed_checkpoint(trainer, context.checkpoints)
    if checkpoint is not None and args.process_index == 0:
        print(f"continuing from {checkpoint.name}", file=sys.stderr, flush=True)
    ready = time.perf_counter()
    stage = context.stage
    assert isinstance(stage, Trained)
    with auxiliary_training(trainer, stage.auxiliary):
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trained = time.perf_counter()
    save_final_model(trainer, context.workdir / MODEL_DIR)
    rows = read_rows(context.workdir / METRICS_FILE) if args.process_index == 0 else []
    last = {k: v for k, v in (rows[-1] if rows else {}).items() if k not in ("timing", "epoch")}
    rates = [row["timing"].get("tokens_per_second") for row in rows if row.get("timing")]
    rates = [rate for rate in rates if rate]
    apart = seconds_apart(trainer)
    return Outcome(
        "model",
        metrics={
            "train_loss": result.training_loss,
            "steps": result.global_step,
            "rows_cut": getattr(trainer, "rows_cut", 0),
            **dropped_prompts(getattr(trainer, "prompts_dropped", 0)),
            "last": last,
        },
        timings={
            "setup_s": round(ready - started, 3),
            "train_s": round(trained - ready - sum(apart.values()), 3),
            **apart,
            "save_s": round(time.perf_counter() - trained, 3),
            "tokens_per_second": round(sum(rates) / len(rates), 1) if rates else 0.0,
            "peak_rss_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
        },
    )


def _agreed_checkpoint(trainer: Any, folder: Path) -> Path | None:
    """Let rank 0 choose, so that no rank sees a folder that another one is moving."""
    from accelerate.utils import broadcast_object_list

    chosen: list[Path | None] = [None]
    if trainer.accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [newest_whole_checkpoint(folder)]
    return broadcast_object_list(chosen)[0]


def save_final_model(trainer: Any, target: Path) -> None:
    """Write weights (safetensors, dtype unchanged; adapters merged) and tokenizer to `target`."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    state = accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if accelerator.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        if hasattr(model, "merge_and_unload"):
            model = _merged(model, state)
            state = None
        model.save_pretrained(target, state_dict=state)
        tokenizer: PreTrainedTokenizerBase = trainer.processing_class
        tokenizer.save_pretrained(target)
    accelerator.wait_for_everyone()


def _merged(model: Any, state: dict[str, torch.Tensor] | None) -> Any:
    """Return the base model with its adapters merged in; `state` when the model is in shards."""
    if state is None:
        return model.merge_and_unload()
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(model.get_base_model().config)
    whole = get_peft_model(base, model.peft_config["default"])
    whole.load_state_dict(state, strict=False)
    return whole.merge_and_unload()
