"""A kernel that hands work to warps and does nothing else: what a race detector says of that."""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def first(out):
    gl.store(out + gl.arange(0, 128, gl.BlockedLayout([1], [32], [4], [0])), 1)


@gluon.jit
def second(out):
    gl.store(out + 128 + gl.arange(0, 128, gl.BlockedLayout([1], [32], [4], [0])), 2)


@gluon.jit
def control_kernel(out, num_warps: gl.constexpr):
    """Two groups of warps write two halves of int32 [256]; they share nothing."""
    gl.warp_specialize([(first, (out,)), (second, (out,))], [4], [24])


def run() -> None:
    out = torch.zeros(256, dtype=torch.int32, device="cuda")
    control_kernel[(1,)](out, num_warps=4)
    torch.cuda.synchronize()
