"""Triton's interpreter with conversions that round: 3.6.0 loses the carry of fp32 -> E4M3, rounds
subnormals twice, decodes NaN codes to 480 and truncates fp32 -> bf16."""

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

TORCH = {
    "fp32": (torch.float32, np.uint32),
    "fp16": (torch.float16, np.uint16),
    "bf16": (torch.bfloat16, np.uint16),
    "fp8e4nv": (torch.float8_e4m3fn, np.uint8),
    "fp8e5": (torch.float8_e5m2, np.uint8),
}


def convert(data: np.ndarray, source: tl.dtype, target: tl.dtype, rounding_mode) -> np.ndarray:
    """Bits of `data` (of type `source`) as bits of type `target`, by torch's casts."""
    dtype, bits = TORCH[source.name]
    out, out_bits = TORCH[target.name]
    flat = np.ascontiguousarray(data).view(bits).reshape(-1).copy()
    values = torch.from_numpy(flat).view(dtype).to(out)
    if out is torch.float8_e4m3fn:
        # The hardware saturates; torch makes NaN of what is out of range.
        wide = torch.from_numpy(flat).view(dtype).float()
        values = wide.clamp(-448, 448).to(out)
    raw = values.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[values.element_size()])
    return raw.numpy().view(out_bits).reshape(data.shape)


def correct() -> None:
    """Replace the interpreter's conversion routine in this process."""
    interpreter._convert_float = convert
    patch = interpreter._patch_lang_tensor

    def with_index(tensor, scope) -> None:
        patch(tensor, scope)
        # As shipped it calls int() on an array of one element, which numpy 2.4 refuses.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = with_index
