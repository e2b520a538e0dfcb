"""What a checkpoint holds beyond weights and optimizer: rollouts, reference, accumulators."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

REFERENCE_FILE = "reference_model.safetensors"
_COUNTERS = ("_step", "_total_train_tokens", "_total_loss_scalar", "_globalstep_last_logged")
_EPOCH_RNG = "epoch_rng"


@dataclass(frozen=True)
class Restored:
    """One rank's state, read from a checkpoint and not yet put into the trainer."""

    values: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def epoch_rng(self) -> torch.Tensor | None:
        """State of torch's CPU generator when the epoch began."""
        return self.tensors.get(_EPOCH_RNG)

    def apply(self, trainer: Any) -> None:
        """Set the trainer's counters, metric accumulators and open generation window."""
        for name, value in self.values["counters"].items():
            setattr(trainer, name, value)
        trainer._tr_loss = torch.tensor(self.values["tr_loss"], device=trainer.args.device)
        for name, values in self.values["metrics"].items():
            trainer._metrics["train"][name] = list(values)
        _restore_logs(trainer, self.values["logs"])
        for callback, load in zip(_balancing(trainer), self.values["load"], strict=True):
            callback.unlogged = load
        if self.values["window"] is not None:
            trainer._buffered_inputs = self._window(trainer.args.device)

    def _window(self, device: torch.device) -> list[dict[str, Any]]:
        batches = [dict(batch) for batch in self.values["window"]]
        for name, tensor in self.tensors.items():
            number, _, key = name.partition(".")
            if name != _EPOCH_RNG:
                batches[int(number)][key] = tensor.to(device)
        return batches


def save_state(trainer: Any, checkpoint: Path, epoch_rng: torch.Tensor | None) -> None:
    """Write this rank's state into `checkpoint`: `state_<rank>.json` and `.safetensors`."""
    tensors: dict[str, torch.Tensor] = {}
    if epoch_rng is not None:
        tensors[_EPOCH_RNG] = epoch_rng
    values = {
        "counters": {n: getattr(trainer, n) for n in _COUNTERS if hasattr(trainer, n)},
        "tr_loss": trainer._tr_loss.item(),
        "metrics": {name: list(v) for name, v in trainer._metrics["train"].items()},
        "logs": _dump_logs(getattr(trainer, "_logs", None)),
        "load": [callback.unlogged for callback in _balancing(trainer)],
        "window": _dump_window(trainer, tensors),
    }
    stem = checkpoint / f"state_{trainer.args.process_index}"
    stem.with_suffix(".json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    save_file(tensors, stem.with_suffix(".safetensors"))


def load_state(trainer: Any, checkpoint: Path) -> Restored | None:
    """Read this rank's state; None when the checkpoint was written by fewer ranks."""
    stem = checkpoint / f"state_{trainer.args.process_index}"
    if not stem.with_suffix(".json").is_file():
        return None
    values = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    return Restored(values, load_file(stem.with_suffix(".safetensors")))


def _balancing(trainer: Any) -> list[Any]:
    """Return the callbacks that count the load of experts between two logs."""
    return [c for c in trainer.callback_handler.callbacks if hasattr(c, "unlogged")]


def _dump_window(trainer: Any, tensors: dict[str, torch.Tensor]) -> list[dict[str, Any]] | None:
    """Return the rest of an open generation window, its tensors put into `tensors`."""
    batches = getattr(trainer, "_buffered_inputs", None)
    args = trainer.args
    if hasattr(trainer, "num_iterations"):
        every = args.steps_per_generation * trainer.num_iterations
    else:
        every = args.gradient_accumulation_steps
    if batches is None or trainer._step % every == 0:
        return None  # the next step writes new completions
    plain: list[dict[str, Any]] = []
    for number, batch in enumerate(batches):
        plain.append(dict.fromkeys(batch))
        for key, value in batch.items():
            if torch.is_tensor(value):
                # The batches are views of one tensor, and safetensors refuses shared memory.
                tensors[f"{number}.{key}"] = value.detach().cpu().clone().contiguous()
            else:
                plain[-1][key] = value
    return plain


def _dump_logs(logs: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the completions kept for the next log as JSON; images are left out."""
    if logs is None:
        return None
    kept = {key: value for key, value in logs.items() if key != "images"}
    return json.loads(json.dumps(kept, default=_plain))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, deque) else str(value)


def _restore_logs(trainer: Any, saved: dict[str, Any] | None) -> None:
    logs = getattr(trainer, "_logs", None)
    if logs is None or saved is None:
        return
    for key, value in saved.items():
        if isinstance(value, dict):
            for name, entries in value.items():
                logs[key][name].extend(entries)
        else:
            logs[key].extend(value)


def save_reference(trainer: Any, checkpoint: Path) -> None:
    """Write the reference model when it moves during training; every rank calls this."""
    if not _reference_moves(trainer):
        return
    weights = {}
    for name, parameter in _held(trainer.ref_model):
        with _whole(parameter, write=False):
            full = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            if trainer.args.should_save:
                weights[name] = full.detach().cpu().clone().contiguous()
    if trainer.args.should_save:
        save_file(weights, checkpoint / REFERENCE_FILE)


def load_reference(trainer: Any, checkpoint: Path) -> None:
    """Put the saved reference weights back; every rank calls this."""
    if not _reference_moves(trainer):
        return
    weights = load_file(checkpoint / REFERENCE_FILE)
    for name, parameter in _held(trainer.ref_model):
        value = weights[name].to(parameter.device)
        if hasattr(parameter, "full_tensor"):
            from torch.distributed.tensor import distribute_tensor

            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        with _whole(parameter, write=True), torch.no_grad():
            parameter.copy_(value)


def _held(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a model learns and what it keeps beside it, such as a router's bias."""
    yield from model.named_parameters()
    kept = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def _reference_moves(trainer: Any) -> bool:
    synced = getattr(trainer.args, "sync_ref_model", False)
    return bool(synced) and getattr(trainer, "ref_model", None) is not None


@contextmanager
def _whole(parameter: Any, write: bool) -> Iterator[None]:
    """Gather a parameter that DeepSpeed ZeRO-3 keeps in shards, for the duration of the block."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    import deepspeed  # pyright: ignore[reportMissingImports]

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if write else None):
        yield
