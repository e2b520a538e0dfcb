"""Codes of weights, made once per optimizer step and shared by every pass until the next one.

An entry belongs to a parameter object and is good for one state of it, told by four marks: the
version that every in-place operation raises, the address of its storage, its precision, and an
epoch that every `torch.optim` step anywhere in the process ends. The epoch covers what a version
misses: writes through `.data` after a step (moving averages, DeepSpeed's copies of its masters)
and parameters that FSDP gathers anew without raising their version. Writes through `.data` between
two passes with no step in between need `invalidate()`, or `forget()`, which `FP8Linear` calls for
whoever asks it for its weight.

Nothing is kept while torch.compile traces (the quantiser is part of the graph) or a CUDA graph
captures (it is part of the graph, and sees the weights of each replay), for weights that exist only
during a pass (FSDP, ZeRO-3: kept codes would undo the sharding), nor for what is no leaf.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

from r1pipe_kernels.backend import run
from r1pipe_kernels.quantise import ops


class Codes(NamedTuple):
    """A weight [N, K] or experts [E, N, K], straight and transposed; see `formats`."""

    codes: Tensor
    scales: Tensor
    t_codes: Tensor
    t_scales: Tensor

    def transposed(self) -> Codes:
        return Codes(self.t_codes, self.t_scales, self.codes, self.scales)


class _State:
    epoch = 0
    hooked = False


_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def invalidate(*_: object) -> None:
    """Forget all codes: weights were written in a way that raises no version."""
    _State.epoch += 1


def forget(weight: Tensor | None) -> None:
    """Quantise this weight anew the next time."""
    if weight is not None and not torch.compiler.is_compiling():
        _kept.pop(weight, None)


def in_graph(x: Tensor) -> bool:
    """True while operations on tensors like x become part of a graph that runs later."""
    if torch.compiler.is_compiling():
        return True
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def passing(weight: Tensor) -> bool:
    """True for a weight that is whole only during a pass: FSDP's and ZeRO-3's.

    Such a weight is quantised again in the backward pass, when it is gathered again.
    """
    if hasattr(weight, "ds_id"):
        return True
    # FSDP2 hands modules plain parameters that carry no mark: any sharded module turns it on. Its
    # module is looked up, not imported: without it nothing is sharded.
    fsdp = sys.modules.get("torch.distributed._composable_state")
    return fsdp is not None and len(fsdp._module_state_mapping) > 0


def quantise(weight: Tensor, power_of_two: bool) -> Codes:
    operator = ops.quantise_weight if weight.dim() == 2 else ops.quantise_weights
    return Codes(*run(operator, weight.detach(), power_of_two))


def codes_of(weight: Tensor, power_of_two: bool = False) -> Codes:
    """Codes of `weight`, from the last time when nothing has changed since."""
    if in_graph(weight):
        return quantise(weight, power_of_two)
    plain = type(weight) in (Tensor, nn.Parameter) and weight.is_leaf and not weight.is_meta
    if not plain or weight.is_inference() or passing(weight):
        return quantise(weight, power_of_two)
    if not _State.hooked:
        register_optimizer_step_post_hook(invalidate)
        _State.hooked = True
    mark = (_State.epoch, weight._version, weight.data_ptr(), weight.dtype, power_of_two)
    found = _kept.get(weight)
    if found is None or found[0] != mark:
        # A tensor made under inference mode could not be used in training afterwards.
        with torch.inference_mode(False):
            found = mark, quantise(weight, power_of_two)
        _kept[weight] = found
    return found[1]
