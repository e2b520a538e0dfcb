"""E4M3 codes, their scales and how both lie in memory.

Shapes, used in every module: M tokens, N outputs, K inputs of a linear layer; MB, NB, KB the same
counted in blocks of 128, rounded up.

    activation   codes [M, K]   scales [KB, M]   1 x 128 blocks: row m, columns 128 kb ...
    transposed   codes [K, M]   scales [MB, K]   1 x 128 blocks of the transposed matrix
    by group     codes [K, max_columns]  scales [max_blocks, K]  transposed, tokens in E groups
    weight       codes [N, K]   scales [NB, KB]  128 x 128 blocks, as in published checkpoints
    experts      codes [E, N, K]  scales [E, NB, KB]

Scales multiply: value = code * scale. Activation scales lie block-major, so the 64 rows a tile
needs are neighbours and one bulk copy brings them.
"""

import torch

BLOCK = 128
E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
# Smallest largest-magnitude of a block that is scaled by its own: amax / 448 is then a normal fp32
# number and 448 / amax is finite. Blocks below are scaled as if they reached it.
AMAX_FLOOR = 2.0**-117


def blocks(size: int) -> int:
    """How many blocks of 128 cover `size`."""
    return -(-size // BLOCK)


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def empty_codes(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """Uninitialised E4M3 [rows, columns]; rows start at multiples of 16 bytes, for bulk copies."""
    stride = max(_padded(columns, 16), 16)
    return like.new_empty_strided((rows, columns), (stride, 1), dtype=E4M3)


def empty_whole_codes(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """`empty_codes` whose last row, too, has room up to the multiple of 16 bytes: for kernels that
    write words."""
    stride = max(_padded(columns, 16), 16)
    codes = like.new_empty(rows, stride, dtype=E4M3)
    return codes if columns == stride else codes[:, :columns]


def empty_experts(experts: int, rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """Uninitialised E4M3 [experts, rows, columns], rows as in `empty_codes`, without gaps."""
    stride = max(_padded(columns, 16), 16)
    strides = (rows * stride, stride, 1)
    return like.new_empty_strided((experts, rows, columns), strides, dtype=E4M3)


def empty_scales(blocks_: int, size: int, like: torch.Tensor) -> torch.Tensor:
    """Uninitialised fp32 [blocks, size]; rows start at multiples of 16 bytes."""
    stride = max(_padded(size, 4), 4)
    return like.new_empty_strided((blocks_, size), (stride, 1), dtype=torch.float32)


def max_blocks(tokens: int, groups: int) -> int:
    """Blocks of 128 tokens that `groups` groups fill at most, each rounded up on its own."""
    return tokens // 128 + groups


def max_columns(tokens: int, groups: int) -> int:
    """Columns that `tokens` in `groups` groups take at most."""
    return (tokens + 15 * groups) // 16 * 16


def require(condition: bool, message: str) -> None:
    """ValueError with `message` unless `condition`."""
    if not condition:
        raise ValueError(message)
