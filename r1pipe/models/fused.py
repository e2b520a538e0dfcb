"""Stock models in fewer kernels, `load.fused`: layers of `dense_layer`, liger-kernel's pieces."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.integrations import is_deepspeed_zero3_enabled

from r1pipe.errors import Problem, UserError
from r1pipe.models.dense_layer import MARK, fuse_layers, rotates
from r1pipe.models.precision import SILU, find_kernels
from r1pipe.schema import Load

WHERE = "model.load.fused"
LIGER = "liger_kernel.transformers.monkey_patch"
LIGER_ROTARY = "liger_kernel.ops.rope"
WANTED = ("rms_norm", "swiglu", "rope")
"""What Liger is asked for, where its function for the architecture has it on by default. Every
other switch is off: losses, the output head, LayerNorm, which some of them would replace in
`torch.nn` for the whole process."""
WHERE_IT_CAN = "`model.load.fused=null` uses it where it can"
ROTARY = "apply_rotary_pos_emb"
PLAIN_ROTARY = "liger_rotary_pos_emb"
"""Name of Liger's function for rotation as Llama has it; the other kinds stay transformers'."""
DEVICES = {"cuda"}
DTYPES = {torch.float32, torch.bfloat16, torch.float16}


def apply_fused(model: Any, load: Load) -> Any:
    """Return `model`, fused as `load.fused` says: whole decoder layers, or norms, rotary embedding
    and gated MLPs.

    null: where `why_not` has nothing against it; true: UserError otherwise. Comes after
    `apply_precision`: what computes in FP8 keeps its own MLP.
    """
    if load.fused is False:
        return model
    problem = why_not(model) or _fuse(model)
    if problem is not None and load.fused:
        raise UserError(problem)
    return model


def _fuse(model: Any) -> Problem | None:
    """Fuse what can be, with a line on stderr about it; returns why nothing was, or None."""
    layers = fuse_layers(model)
    found = [f"{layers} layers"] if layers else []
    problem = why_not_liger(model)
    if problem is None:
        try:
            norms, mlps, rotations = fuse(model)
        except Exception as error:  # its functions look for layers that this model may not have
            first = f"{type(error).__name__}: {error}".splitlines()[0]
            what = f"liger-kernel fails with this model: {first}"
            _say(f"fused: {what}; transformers' own pieces stay")
            problem = Problem(WHERE, what, WHERE_IT_CAN)
        else:
            if norms + mlps + rotations:
                pieces = f"{norms} norms, {mlps} MLPs, {rotations} rotary embeddings"
                found.append(f"{pieces} by liger-kernel")
            what = f"liger-kernel fuses no layer of {type(model).__name__}"
            problem = Problem(WHERE, what, WHERE_IT_CAN)
    if not found:
        return problem
    _say(f"fused: {'; '.join(found)}")
    return None


def why_not(model: Any) -> Problem | None:
    """Return why nothing of `model` can be fused in this process, or None."""
    name = type(model).__name__
    if type(model).__module__.startswith("r1pipe."):
        what = f"{name} has fused kernels of its own"
    elif not type(model).__module__.startswith("transformers."):
        what = f"{name} is no class of transformers"
    elif not torch.cuda.is_available():
        what = "the kernels are for a CUDA GPU, and there is none"
    elif _sharded():
        what = "the kernels are not known to work with weights in shards (FSDP, ZeRO-3)"
    elif (reason := unable()) is not None:
        what = f"Triton cannot run kernels here: {reason}"
        _say(f"not fused, which is slower: {what}")
    else:
        return None
    return Problem(WHERE, what, WHERE_IT_CAN)


def unable() -> str | None:
    """Return why Triton fails on this process's GPU (it needs a C compiler), or None."""
    index = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", index if index < torch.cuda.device_count() else 0)
    try:
        find_kernels()
        from r1pipe_kernels.layers import triton_impl

        row = torch.ones(1, 16, device=device)
        triton_impl.norm_forward(row, row[0], 1e-6, torch.bfloat16)
    except Exception as error:  # of Triton, of the compiler that it calls, of the driver
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def why_not_liger(model: Any) -> Problem | None:
    """Return why liger-kernel's pieces cannot be used for `model`, or None."""
    kind, hint = getattr(model.config, "model_type", None), WHERE_IT_CAN
    if find_spec("liger_kernel") is None:
        what = "it needs the package `liger-kernel`, which is not installed"
        hint = f"pip install r1pipe[gpu]; {WHERE_IT_CAN}"
    elif isinstance(known := _known(), str):
        what, hint = known, f"pip install -U liger-kernel; {WHERE_IT_CAN}"
    elif kind not in known:
        what = f"liger-kernel does not know models of the kind `{kind}`"
    else:
        return None
    return Problem(WHERE, what, hint)


def _known() -> dict[str, Callable[..., None]] | str:
    """Return Liger's functions by kind of model, or why there are none."""
    try:
        return importlib.import_module(LIGER).MODEL_TYPE_TO_APPLY_LIGER_FN
    except Exception as error:  # it refuses versions of transformers, and needs Triton to work
        first = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"liger-kernel cannot be imported: {first}"


def _sharded() -> bool:
    said = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes", "on", "y", "t")
    return said or is_deepspeed_zero3_enabled()


def fuse(model: nn.Module) -> tuple[int, int, int]:
    """Let `model` compute with Liger's kernels where its tensors are on a GPU.

    Returns how many norms, MLPs and rotary embeddings do.

    Nothing but `model` changes: forwards are put on its modules, parameters keep their objects, and
    what Liger replaces in transformers' files is put back, so that models made before or after are
    as they were. The rotation is looked up by attention in its file, where a function stands in
    that rotates as before unless called by attention of a fused model.
    """
    config: Any = model.config
    patch = importlib.import_module(LIGER).MODEL_TYPE_TO_APPLY_LIGER_FN[config.model_type]
    takes = inspect.signature(patch).parameters
    switches = {n: each.default for n, each in takes.items() if isinstance(each.default, bool)}
    asked = {name: default and name in WANTED for name, default in switches.items()}
    before = {m: vars(m).get("forward") for m in model.modules()}
    try:
        with _put_back() as replaced:
            patch(model=model, **asked)
    except Exception:
        for module, own in before.items():
            _put_forward(module, own)
        raise
    fused = [module for module, own in before.items() if _keep(module, own)]
    norms = sum(hasattr(module, "casting_mode") for module in fused)
    attentions = [
        attention
        for file, names in replaced.items()
        if getattr(names.get(ROTARY), "__name__", None) == PLAIN_ROTARY
        for attention in _rotating(model, file)
    ]
    return norms, len(fused) - norms, len(attentions)


@contextmanager
def _put_back() -> Iterator[dict[ModuleType, dict[str, Any]]]:
    """Undo what the block assigns in transformers' modelling files and in `torch.nn`.

    Yields a dictionary that holds what was undone once the block has ended.
    """
    files = [m for n, m in list(sys.modules.items()) if n.startswith("transformers.") and m]
    files = [m for m in files if ".modeling_" in m.__name__ or ".loss" in m.__name__]
    saved = {file: dict(vars(file)) for file in [*files, nn, nn.functional]}
    undone: dict[ModuleType, dict[str, Any]] = {}
    try:
        yield undone
    finally:
        for file, values in saved.items():
            for name, value in values.items():
                if (new := vars(file).get(name)) is not value:
                    undone.setdefault(file, {})[name] = new
                    setattr(file, name, value)


def _put_forward(module: nn.Module, own: Any) -> None:
    """Leave `own` as the forward of this very module, None for its class's; Liger's names go."""
    for name in ("forward", "_get_name", "extra_repr"):
        vars(module).pop(name, None)
    if own is not None:
        vars(module)["forward"] = own


def _keep(module: nn.Module, own: Any) -> bool:
    """Take Liger's forward of `module` over, guarded, if it computes what the class's does."""
    bound = vars(module).get("forward")
    if bound is own:
        return False
    fused: Any = bound.__func__  # pyright: ignore[reportOptionalMemberAccess]
    _put_forward(module, own)
    if own is not None or not _alike(module, fused.__qualname__.split(".")[0]):
        return False
    vars(module)["forward"] = MethodType(_guarded(fused), module)
    return True


def _alike(module: nn.Module, kind: str) -> bool:
    """True for norms, and for MLPs of Liger's class `kind` gated by SiLU.

    Liger puts its SwiGLU on a module whatever its activation is; its routed experts multiply in the
    dtype of their weights, not in autocast's; and FP8 MLPs have kernels of their own.
    """
    if "RMSNorm" in kind:
        return isinstance(getattr(module, "weight", None), Tensor)
    activation = getattr(module, "act_fn", getattr(module, "activation_fn", None))
    foreign = type(module).__module__.startswith("r1pipe_kernels.")
    return "MLP" in kind and isinstance(activation, SILU) and not foreign


def _guarded(fused: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward: `fused` where its kernel can run, that of the module's class elsewhere."""

    @functools.wraps(fused)
    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not _suits(hidden_states, self):
            return type(self).forward(self, hidden_states, *args, **kwargs)
        return fused(self, hidden_states)

    setattr(forward, MARK, True)
    return forward


def _suits(x: Tensor, module: Any) -> bool:
    # Inductor fuses these layers itself; Triton refuses a grid of no programs.
    return (
        not torch.compiler.is_compiling()
        and x.device.type in DEVICES
        and x.dtype in DTYPES
        and x.numel() > 0
        and not isinstance(x, DTensor)
        and not isinstance(getattr(module, "weight", None), DTensor)
    )


def _rotating(model: nn.Module, file: ModuleType) -> list[nn.Module]:
    """Let attention of `model` that is written in `file` rotate fused; returns those modules."""
    plain = vars(file)[ROTARY]
    if not hasattr(plain, MARK):
        setattr(file, ROTARY, _guarded_rotary(plain))
    found = []
    for module in model.modules():
        kind = type(module)
        code = getattr(inspect.unwrap(kind.forward), "__code__", None)
        names = code.co_names if code is not None else ()
        if kind.__module__ == file.__name__ and ROTARY in names and "forward" not in vars(module):
            vars(module)["forward"] = MethodType(_attend, module)
            found.append(module)
    return found


def _attend(self: Any, *args: Any, **kwargs: Any) -> Any:
    before = rotates.set(True)
    try:
        return type(self).forward(self, *args, **kwargs)
    finally:
        rotates.reset(before)


setattr(_attend, MARK, True)


def _guarded_rotary(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def apply_rotary_pos_emb(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        # Compilers stop at the first question, before they meet the context variable.
        if torch.compiler.is_compiling() or not rotates.get() or args or kwargs:
            return plain(q, k, cos, sin, *args, **kwargs)
        if not (_suits(q, None) and _suits(k, None) and q.dtype == k.dtype and cos.dim() == 3):
            return plain(q, k, cos, sin)
        return rotated(q, k, cos, sin)

    setattr(apply_rotary_pos_emb, MARK, True)
    return apply_rotary_pos_emb


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Return q [B, H, T, D] and k [B, Hkv, T, D] rotated by cos and sin [B or 1, T, D].

    Computed in the dtype of cos and stored in that of q and k: in their memory, where they are
    views of projections [B, T, H, D]. Always Liger's Triton kernel: its dispatcher would choose
    another one by size where CuTe DSL is installed. The kernel is compiled anew for every number of
    rows, so it gets one row of all tokens.
    """
    rotate: Any = importlib.import_module(LIGER_ROTARY).LigerRopeFunction.apply
    batch, length = q.shape[0], q.shape[2]
    if batch == 1:
        return rotate(q, k, cos, sin)
    flat = [each.transpose(1, 2).flatten(0, 1)[None].transpose(1, 2) for each in (q, k)]
    angles = [each.expand(batch, -1, -1).flatten(0, 1)[None] for each in (cos, sin)]
    turned = (each.transpose(1, 2)[0] for each in rotate(*flat, *angles))
    q, k = (each.unflatten(0, (batch, length)).transpose(1, 2) for each in turned)
    return q, k


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)
