"""New weights for a transformers model in memory, by the names of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from r1pipe.rollout.checkpoint_names import checkpoint_tensors
from r1pipe.rollout.remote.wire import Malformed


def take_weights(model: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy `tensors` into `model`; all of its checkpoint's, and nothing else, have to be there.

    Raises Malformed, with the model as it was, for missing, unknown or misshapen weights.
    """
    given = dict(tensors)
    own = dict(checkpoint_tensors(model))
    check_names({n: tuple(t.shape) for n, t in own.items()}, given)
    storages = {
        value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]
    }
    if all(tensor.untyped_storage().data_ptr() in storages for tensor in own.values()):
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(given[name])
        return
    _take_joined(model, given)


def check_names(own: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor]) -> None:
    """Raise Malformed unless `given` has the names and shapes of `own`."""
    for what, names in (
        ("are missing", sorted(own.keys() - given.keys())),
        ("are none of the model's", sorted(given.keys() - own.keys())),
        (
            "have another shape",
            sorted(n for n in own.keys() & given.keys() if own[n] != tuple(given[n].shape)),
        ),
    ):
        if names:
            shown = ", ".join(f"`{name}`" for name in names[:3]) + (" ..." if names[3:] else "")
            raise Malformed(f"weights: {len(names)} tensors {what}: {shown}")


def _take_joined(model: Any, given: Mapping[str, Tensor]) -> None:
    """Let transformers join what its modules keep together (experts), and copy the result."""
    config = model.config
    made = type(model).from_pretrained(None, config=config, state_dict=dict(given), dtype="auto")
    whole = made.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(whole[name])
