"""Launches that are repeated pass the GPU what Triton's own path does, and stay out of its way."""

import pytest
import torch

triton = pytest.importorskip("triton")

from r1pipe_kernels import backend  # noqa: E402
from r1pipe_kernels.formats import (  # noqa: E402
    blocks,
    empty_codes,
    empty_experts,
    empty_scales,
)
from r1pipe_kernels.testing import aot  # noqa: E402

BF16, F32 = torch.bfloat16, torch.float32


@pytest.fixture
def launches(monkeypatch):
    """What would have gone to the driver, kernels compiled for Hopper and none run."""
    from triton.backends.nvidia.driver import CudaLauncher, wrap_handle_tensordesc

    seen = []

    def raw(*args):
        # Tensors are passed as their addresses, as the C launcher reads them.
        seen.append([a.data_ptr() if isinstance(a, torch.Tensor) else a for a in args])

    def launcher(source, metadata):
        made = CudaLauncher.__new__(CudaLauncher)
        signature = dict(source.signature)
        made.launch = wrap_handle_tensordesc(raw, signature, metadata.tensordesc_meta)
        made.num_ctas = 1
        made.global_scratch_size = made.profile_scratch_size = 0
        made.global_scratch_align = made.profile_scratch_align = 1
        made.launch_cooperative_grid = made.launch_pdl = False
        return made

    driver = aot._NoGpu()
    driver.launcher_cls = launcher
    fill = staticmethod(lambda *args: ("map", *map(plain, args)))
    driver.utils = type("utils", (aot._NoGpu.utils,), {"fill_tma_descriptor": fill})
    before = triton.runtime.driver.active if triton.runtime.driver._active else None
    triton.runtime.driver.set_active(driver)
    monkeypatch.setenv(backend.VARIABLE, "gluon")
    from r1pipe_kernels.gemm import launch
    from r1pipe_kernels.grouped import launch as grouped_launch
    from r1pipe_kernels.quantise import pipelined_sm90

    for module in (launch, grouped_launch, pipelined_sm90):
        monkeypatch.setattr(module, "processors", lambda index: 132)
    forget()
    yield seen
    forget()
    if before is not None:
        triton.runtime.driver.set_active(before)


def forget():
    from r1pipe_kernels.gemm import ops as gemm
    from r1pipe_kernels.grouped import ops as grouped
    from r1pipe_kernels.quantise import gluon_nvidia, triton_impl

    for module in (gemm, grouped, gluon_nvidia, triton_impl):
        module._repeats._known.clear()


def plain(value):
    return tuple(value) if isinstance(value, list | tuple | torch.Size) else value


def operand(rows, k):
    like = torch.empty(0)
    return empty_codes(rows, k, like), empty_scales(blocks(k), rows, like)


def comparable(call):
    """The arguments but for what only profilers read."""
    return [*call[:10], *map(plain, call[13:])]


def operations():
    from r1pipe_kernels.gemm import ops as gemm
    from r1pipe_kernels.grouped import ops as grouped
    from r1pipe_kernels.quantise import ops as quantise

    a, b = operand(300, 640), operand(256, 640)
    weight = (b[0], torch.empty(2, 5))
    experts = (empty_experts(3, 136, 640, a[0]), torch.empty(3, 2, 5))
    offsets = torch.tensor([0, 100, 100, 300], dtype=torch.int32)
    c, out = torch.empty(300, 256), torch.empty(3, 300, 136)
    left, right = operand_t(300), operand_t(136)
    x = torch.empty(300, 256, dtype=BF16)
    return {
        "forward": lambda: gemm.gemm(*a, *weight, BF16),
        "rows": lambda: gemm.gemm_rows(*a, *b, F32),
        "rows with itself": lambda: gemm.gemm_rows(*a, *a, F32),
        "added": lambda: gemm.gemm_into(c, *a, *weight),
        "grouped": lambda: grouped.grouped_gemm(*a, *experts, offsets, BF16),
        "reduce": lambda: grouped.grouped_gemm_reduce_into(out, *left, *right, offsets),
        "quantise": lambda: quantise.quantise_both(x),
        "quantise columns": lambda: quantise.quantise_columns(x),
        "quantise fp32": lambda: quantise.quantise_both(x.float()),
        "quantise silu": lambda: quantise.silu_mul_quantise(x, x),
        "quantise gradients": lambda: quantise.silu_mul_backward_quantise(x, x, x),
        "quantise rows": lambda: quantise.quantise_rows(x),
        "quantise grouped": lambda: grouped.quantise_both(x, offsets),
    }


def operand_t(features):
    like = torch.empty(0)
    return empty_codes(features, 320, like), empty_scales(5, features, like)


def steady(x):
    """An address that the layout decides, so that calls can be compared."""
    layout = enumerate((*x.shape, *x.stride()))
    return 16 * (sum(size * (place + 3) for place, size in layout) + x.element_size())


@pytest.fixture
def slow_paths(monkeypatch):
    """Counts calls of Triton's own path."""
    from triton.runtime.jit import JITFunction

    run, count = JITFunction.run, []
    monkeypatch.setattr(
        JITFunction, "run", lambda self, *a, **k: (count.append(self), run(self, *a, **k))[1]
    )
    return count


@pytest.mark.parametrize("name", list(operations()))
def test_a_repeated_operation_is_launched_with_the_same_arguments(
    launches, slow_paths, name, monkeypatch
):
    monkeypatch.setattr(torch.Tensor, "data_ptr", steady)
    call = operations()[name]
    call()
    taken, launched = len(slow_paths), len(launches)
    call()
    assert len(slow_paths) == taken and len(launches) == 2 * launched
    slow, fast = launches[:launched], launches[launched:]
    assert [*map(comparable, slow)] == [*map(comparable, fast)]


def test_other_tensors_of_the_same_layouts_bring_their_addresses(launches, slow_paths):
    from r1pipe_kernels.gemm import ops as gemm

    (a, a_s), kept = operand(300, 640), []
    for _ in range(3):
        b, b_s = operand(256, 640)
        kept.append((b, b_s, gemm.gemm_rows(a, a_s, b, b_s, F32)))
    gemm.gemm_rows(a, a_s, a, a_s, F32)  # two operands that are one: another launch
    for call, tensors in zip(launches, kept, strict=False):
        described = [arg[1] for arg in map(plain, call[13:]) if isinstance(arg, tuple)]
        assert described[:4] == [t.data_ptr() for t in (a, tensors[0], a_s, tensors[1])]
        assert tensors[2].data_ptr() in call[13:]
    assert len(slow_paths) == 2


def test_what_a_launch_counts_on_is_checked_every_time(launches, slow_paths):
    from r1pipe_kernels.quantise import ops as quantise

    whole = torch.empty(300 * 256 + 8, dtype=BF16)
    aligned, shifted = (whole[start : start + 300 * 256].view(300, 256) for start in (0, 4))
    quantise.quantise_rows(aligned)
    taken = len(slow_paths)
    quantise.quantise_rows(shifted)  # starts inside a word of 16 bytes
    assert len(slow_paths) == taken + 1
    quantise.quantise_rows(aligned[:299])
    assert len(slow_paths) == taken + 2


def test_each_layout_goes_to_a_kernel_that_takes_it(launches, slow_paths):
    from r1pipe_kernels.grouped import ops as grouped
    from r1pipe_kernels.quantise import ops as quantise

    def used(call):
        call()
        return slow_paths[-1].fn.__name__

    whole = torch.empty(300 * 256 + 8, dtype=BF16)
    x, shifted = (whole[start : start + 300 * 256].view(300, 256) for start in (0, 4))
    assert used(lambda: quantise.quantise_both(x)) == "bf16_kernel"
    assert used(lambda: quantise.quantise_both(shifted)) == "tile_kernel"
    assert used(lambda: quantise.silu_mul_quantise(x[:64], shifted[:64])) == "tile_kernel"
    assert used(lambda: quantise.silu_mul_quantise(x, x)) == "pipelined_kernel"
    assert used(lambda: quantise.silu_mul_backward_quantise(x, x, x)) == "pipelined_kernel"
    again = x[:1].expand(300, 256)  # one row many times: nothing to describe to the copy engine
    assert used(lambda: quantise.silu_mul_backward_quantise(again, x, x)) == "bf16_kernel"
    assert used(lambda: quantise.quantise_columns(x.float())) == "fp32_kernel"
    assert used(lambda: quantise.silu_mul_quantise(x.float(), x.float())) == "tile_kernel"
    assert used(lambda: quantise.quantise_columns(x.half())) == "tile_kernel"
    assert used(lambda: quantise.quantise_weight(x)) == "bf16_weight_kernel"
    assert used(lambda: quantise.quantise_weight(shifted)) == "weight_kernel"
    offsets = torch.tensor([0, 100, 300], dtype=torch.int32)
    assert used(lambda: grouped.quantise_both(x, offsets)) == "tile_kernel"


def test_profilers_are_told_of_every_launch(launches, slow_paths):
    from r1pipe_kernels.quantise import ops as quantise

    x, told = torch.empty(300, 256, dtype=BF16), []
    quantise.quantise_rows(x)
    hook = triton.knobs.runtime.launch_enter_hook
    watch = told.append
    hook.add(watch)
    try:
        taken = len(slow_paths)
        quantise.quantise_rows(x)
        assert len(slow_paths) == taken + 1
    finally:
        hook.remove(watch)
