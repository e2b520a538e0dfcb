"""The block-scaled product in plain Triton: for other GPUs than Hopper and the interpreter."""

import torch
import triton
import triton.language as tl

from r1pipe_kernels.formats import blocks


@triton.jit
def gemm_kernel(
    a, b, a_scales, b_scales, c, M, N, K,
    a_stride, b_stride, a_scale_stride, b_scale_0, b_scale_1, c_stride,
    ROWS: tl.constexpr, ADD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, 128)
    acc = tl.zeros((BM, BN), tl.float32)
    for kb in range(tl.cdiv(K, 128)):
        k = kb * 128 + depth
        left = tl.load(
            a + rows.to(tl.int64)[:, None] * a_stride + k[None, :],
            mask=(rows < M)[:, None] & (k < K)[None, :], other=0.0,
        )  # fmt: skip
        right = tl.load(
            b + cols.to(tl.int64)[None, :] * b_stride + k[:, None],
            mask=(cols < N)[None, :] & (k < K)[:, None], other=0.0,
        )  # fmt: skip
        part = tl.dot(left, right)
        a_s = tl.load(a_scales + kb * a_scale_stride + rows, mask=rows < M, other=0.0)
        if ROWS:  # noqa: SIM108
            at = kb * b_scale_0 + cols * b_scale_1
        else:
            at = (cols // 128) * b_scale_0 + kb * b_scale_1
        b_s = tl.load(b_scales + at, mask=cols < N, other=0.0)
        acc += part * (a_s[:, None] * b_s[None, :])
    pointers = c + rows.to(tl.int64)[:, None] * c_stride + cols[None, :]
    mask = (rows < M)[:, None] & (cols < N)[None, :]
    if ADD:
        acc += tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    tl.store(pointers, acc.to(c.dtype.element_ty), mask=mask)


def gemm(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor,
    c: torch.Tensor, rows: bool, add: bool,
) -> None:  # fmt: skip
    """Write or add the product into c [M, N]; see `ops` for the shapes."""
    (m, k), n = a.shape, b.shape[0]
    tile = 64 if m > 64 else 16 if m <= 16 else 32
    gemm_kernel[(triton.cdiv(m, tile), blocks(n))](
        a, b, a_scales, b_scales, c, m, n, k, a.stride(0), b.stride(0), a_scales.stride(0),
        b_scales.stride(0), b_scales.stride(1), c.stride(0),
        ROWS=rows, ADD=add, BM=tile, BN=128,
    )  # fmt: skip
