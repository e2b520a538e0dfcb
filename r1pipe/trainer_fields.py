"""Fields of the installed TRL configs, read from their source so that nothing heavy is imported."""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
from pathlib import Path
from typing import Any

_CONFIG_OF_KIND = {
    "pretrain": ("trl", "trainer/sft_config.py", "SFTConfig"),
    "sft": ("trl", "trainer/sft_config.py", "SFTConfig"),
    "grpo": ("trl", "trainer/grpo_config.py", "GRPOConfig"),
    "distill": ("trl", "trainer/distillation_config.py", "DistillationConfig"),
}
_BASES = {
    "_BaseConfig": ("trl", "trainer/base_config.py", "_BaseConfig"),
    "TrainingArguments": ("transformers", "training_args.py", "TrainingArguments"),
}
OWNED_BY_R1PIPE = {
    "output_dir": "the stage's `output_dir`",
    "seed": "the stage's `seed`",
    "data_seed": "the stage's `seed`",
    "report_to": "`tracker`",
    "resume_from_checkpoint": "nothing: an interrupted stage resumes by itself",
    "use_vllm": "`rollout.engine: vllm`",
    "model_init_kwargs": "`load`",
    "reward_weights": "`rewards`",
    "log_completions": "nothing: completions are always kept",
}
_AT_LEAST = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_generations": 2,
    "num_iterations": 1,
    "steps_per_generation": 1,
    "max_completion_length": 1,
    "max_length": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "temperature": 0,
    "warmup_steps": 0,
}
_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
"""`loss_type` of GRPOTrainer: TRL 1.16 refuses another one at the first step only."""
_PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str}


@functools.cache
def trainer_fields(kind: str) -> dict[str, str]:
    """Return {field: annotation source} of the TRL config of a trained stage kind."""
    return _fields(*_CONFIG_OF_KIND[kind])


@functools.cache
def _fields(package: str, file: str, class_name: str) -> dict[str, str]:
    tree = class_source(package, file, class_name)
    found: dict[str, str] = {}
    for base in tree.bases:
        if isinstance(base, ast.Name) and base.id in _BASES:
            found |= _fields(*_BASES[base.id])
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = ast.unparse(node.annotation)
    return found


def class_source(package: str, file: str, class_name: str) -> ast.ClassDef:
    """Return a class of an installed package as syntax, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    path = Path(spec.submodule_search_locations[0]) / file
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return node
    raise LookupError(f"{path} defines no class {class_name}")


def expected_type(annotation: str, value: Any) -> str | None:
    """Return what a field expects when `value` plainly is something else, else None.

    Only unions of plain types are judged; anything richer is left to TRL itself.
    """
    parts = {part.strip() for part in annotation.split("|")}
    if not parts <= {*_PLAIN, "None"} or (value is None and "None" in parts):
        return None
    accepted = [_PLAIN[part] for part in parts if part != "None"]
    if isinstance(value, bool) and "bool" not in parts:
        return " or ".join(sorted(parts))
    if any(isinstance(value, kind) for kind in accepted):
        return None
    return " or ".join(sorted(parts))


def expected_value(kind: str, field: str, value: Any) -> str | None:
    """Return what a field expects when its type is right and `value` can only fail, else None.

    TRL or transformers would refuse most of these too, but only once the stage's turn has come.
    """
    if isinstance(value, str):
        known = known_values(kind, field)
        return f"one of {', '.join(known)}" if known and value not in known else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "a finite number"
    if field == "max_steps" and (value == 0 or value < -1):
        return "1 step or more, or -1 for `num_train_epochs`"
    if field == "num_train_epochs" and value <= 0:
        return "more than 0 epochs"
    least = _AT_LEAST.get(field)
    return f"{least} or more" if least is not None and value < least else None


@functools.cache
def known_values(kind: str, field: str) -> tuple[str, ...]:
    """Return the words that a field may have, () where they are not known here."""
    if field == "loss_type" and kind == "grpo":
        return _LOSSES
    if field != "lr_scheduler_type":
        return ()
    schedulers = class_source("transformers", "trainer_utils.py", "SchedulerType")
    return tuple(
        str(node.value.value)
        for node in schedulers.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    )
