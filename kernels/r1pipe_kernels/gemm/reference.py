"""The block-scaled product in torch, on any device."""

import torch
import torch.nn.functional as F

from r1pipe_kernels.formats import BLOCK, blocks


def wide_rows(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """codes [R, K] times scales [KB, R]."""
    wide = scales.t().repeat_interleave(BLOCK, 1)[:, : codes.shape[1]]
    return codes.to(dtype) * wide.to(dtype)


def wide_blocks(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """codes [N, K] times scales [NB, KB]."""
    n, k = codes.shape
    wide = scales.repeat_interleave(BLOCK, 0)[:n].repeat_interleave(BLOCK, 1)[:, :k]
    return codes.to(dtype) * wide.to(dtype)


def exact(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor, rows: bool
) -> torch.Tensor:
    """fp64 [M, N]: the product of the dequantised operands, what every kernel is held against."""
    wide_b = (wide_rows if rows else wide_blocks)(b, b_scales, torch.float64)
    return wide_rows(a, a_scales, torch.float64) @ wide_b.t()


def gemm(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor, rows: bool
) -> torch.Tensor:
    """fp32 [M, N] with the kernels' order: products of 128 codes, scaled, added up in fp32.

    a [M, K] with scales [KB, M]; b [N, K] with scales [KB, N] (`rows`) or [NB, KB].
    """
    k = a.shape[1]
    pad = (0, blocks(k) * BLOCK - k)
    left, right = F.pad(a.float(), pad), F.pad(b.float(), pad)
    out = torch.zeros(a.shape[0], b.shape[0], device=a.device)
    for kb in range(blocks(k)):
        span = slice(kb * BLOCK, (kb + 1) * BLOCK)
        part = left[:, span] @ right[:, span].t()
        if rows:
            out += part * a_scales[kb][:, None] * b_scales[kb][None, :]
        else:
            column = b_scales[:, kb].repeat_interleave(BLOCK)[: b.shape[0]]
            out += part * (a_scales[kb][:, None] * column[None, :])
    return out
