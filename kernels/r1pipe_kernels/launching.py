"""Launches a kernel again and again without the work that Triton repeats at every call.

Triton binds, inspects and looks up every argument anew and describes matrices to the copy engine
anew, which takes longer than many a layer computes. For tensors of the same shapes, strides and
types all of that is the same but for addresses: a `Launch` keeps it and fills those in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.runtime import driver

KNOWN_LAUNCHER = triton.__version__.startswith("3.6.")
"""What lies behind `CompiledKernel.run` is Triton's own business, and was read in this version."""
MOST_MAPS = 4096
"""Addresses remembered for one operand; an allocator gives a training step the same ones."""


class Matrix(NamedTuple):
    """A matrix as the copy engine sees it: what Triton reads of a descriptor."""

    base: torch.Tensor
    shape: Sequence[int]
    strides: Sequence[int]
    block_shape: Sequence[int]
    layout: Any
    padding: str = "zero"

    def checked(self) -> TensorDescriptor:
        """The same as Triton's compiler wants it; asserts what the copy engine asks for."""
        return TensorDescriptor(
            self.base, list(self.shape), list(self.strides), list(self.block_shape), self.layout
        )


class Launch:
    """One binary with its grid and its arguments; only the tensors change from call to call."""

    def __init__(
        self, compiled: Any, grid: Sequence[int], tensors: Sequence[torch.Tensor], args: list[Any]
    ) -> None:
        """`args`: all parameters in order, with `tensors` (or matrices on them) among them."""
        self.device = driver.active.get_current_device()
        self.grid = (*grid, 1, 1)[:3]
        launcher = compiled.run
        self.raw, described = _raw(launcher)
        self.plain: list[tuple[int, int]] = []
        self.maps: list[tuple[int, int, dict[int, Any], Matrix, Any]] = []
        self.args: list[Any] = []
        if self.raw is None:
            return
        self.middle = (
            compiled.function, launcher.launch_cooperative_grid, launcher.launch_pdl, None, None,
            compiled.packed_metadata, None, None, None,
        )  # fmt: skip
        number = {id(tensor): place for place, tensor in enumerate(tensors)}
        for arg in args:
            if isinstance(arg, Matrix):
                known: dict[int, Any] = {}
                found = (len(self.args), number[id(arg.base)], known, arg, described.pop(0))
                self.maps.append((*found[:3], arg._replace(base=None), found[4]))
                self.args += [None, *arg.shape, *arg.strides]
            else:
                if isinstance(arg, torch.Tensor):
                    self.plain.append((len(self.args), number[id(arg)]))
                self.args.append(arg)
        for place, _ in self.plain:
            self.args[place] = None  # no tensor is kept alive

    def __call__(self, *tensors: torch.Tensor) -> bool:
        """Launch on these tensors, like the first ones in all but address; False: it has not."""
        if self.raw is None or driver.active.get_current_device() != self.device or _watched():
            return False
        pointers = [tensor.data_ptr() for tensor in tensors]
        args = self.args.copy()
        for place, number in self.plain:
            pointer = args[place] = pointers[number]
            if pointer & 15:
                return False  # the binary counts on whole words
        for place, number, known, matrix, described in self.maps:
            pointer = pointers[number]
            found = known.get(pointer)
            if found is None:
                if pointer & 15:
                    return False
                if len(known) >= MOST_MAPS:
                    known.clear()
                found = known[pointer] = _map(matrix._replace(base=tensors[number]), described)
            args[place] = found
        stream = driver.active.get_current_stream(self.device)
        self.raw(*self.grid, stream, *self.middle, *args)
        return True


def launch(
    kernel: Any,
    grid: Sequence[int],
    tensors: Sequence[torch.Tensor],
    *args: Any,
    **constants: Any,
) -> Launch | None:
    """`kernel[grid](*args, **constants)`, and what does it again with other tensors.

    `tensors`: those among `args`, in the order in which the `Launch` takes them. None where nothing
    can be kept: in Triton's interpreter, or with an operand that starts inside a word.
    """
    given = [arg.checked() if isinstance(arg, Matrix) else arg for arg in args]
    compiled = kernel[grid](*given, **constants)
    if compiled is None or any(tensor.data_ptr() & 15 for tensor in tensors):
        return None
    rest = [constants[name] for name in kernel.arg_names[len(args) :]]
    return Launch(compiled, grid, tensors, [*args, *rest])


def _raw(launcher: Any) -> tuple[Any, list[Any]]:
    """Triton's launch function past its unpacking of descriptors, and what it knows of those."""
    kind = type(launcher).__name__
    if not KNOWN_LAUNCHER or kind != "CudaLauncher" or launcher.global_scratch_size:
        return None, []
    if launcher.profile_scratch_size:
        return None, []
    function = launcher.launch
    wrapper = getattr(function, "__code__", None)
    if wrapper is None or "tensordesc_meta" not in wrapper.co_freevars:
        return function, []  # no descriptor among the parameters
    inside = dict(zip(wrapper.co_freevars, function.__closure__, strict=True))
    described = list(inside["tensordesc_meta"].cell_contents)
    return (None, []) if None in described else (inside["launcher"].cell_contents, described)


def _map(matrix: Matrix, described: Any) -> Any:
    from triton.backends.nvidia.driver import make_tensordesc_arg

    return make_tensordesc_arg(matrix, described)[0]


def _watched() -> bool:
    """Whether a profiler wants to be told of launches."""
    hook = knobs.runtime.launch_enter_hook
    return hook is not None and bool(getattr(hook, "calls", True))
