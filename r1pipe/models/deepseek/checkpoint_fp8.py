"""Block-scaled FP8 weights as V3's public checkpoints hold them: dequantised, and written.

A block of a weight has one scale, by which its E4M3 codes are multiplied (V3 report, 3.3.2; the
public layout's `weight_scale_inv`). Shapes: M rows, N columns, A x B one block.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from r1pipe.errors import Problem, UserError
from r1pipe.models.deepseek.checkpoint import INDEX, SCALE, WEIGHTS

if TYPE_CHECKING:
    from r1pipe.models.deepseek.modeling import DeepseekForCausalLM

BLOCK = (128, 128)
"""V3's blocks (3.3.2), and what transformers takes where config.json does not say."""

E4M3_MAX = 448.0
SLAB = 1024
"""Rows dequantised at a time: what is held beside codes and weights stays small."""

QUANTISED = (
    *("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)
"""Linear layers that V3's public checkpoint quantises; embedding, head, norms, router and
`eh_proj` keep their precision (3.3.1)."""

SHARD_BYTES = 5_000_000_000


def block_of(quantization: Any, where: str) -> tuple[int, int] | None:
    """Return the sides of a block from a config.json's `quantization_config`.

    None means one scale per tensor. Raises UserError, naming it, for any other quantisation.
    """
    if quantization is None:
        return BLOCK
    content: Any = quantization if isinstance(quantization, dict) else quantization.to_dict()
    method = getattr(content.get("quant_method"), "value", content.get("quant_method"))
    if method != "fp8":
        what = f"received {method!r}, expected 'fp8', the block-scaled layout of DeepSeek-V3"
        hint = "weights of other formats are not read: take the FP8 or bfloat16 checkpoint"
        raise UserError(Problem(f"{where}: quantization_config.quant_method", what, hint))
    form = content.get("fmt", "e4m3")
    if form not in ("e4m3", "float8_e4m3fn", None):
        what = f"received {form!r}, expected 'e4m3'"
        raise UserError(Problem(f"{where}: quantization_config.fmt", what))
    sides = content.get("weight_block_size", BLOCK)
    if sides is None:
        return None
    if not (
        isinstance(sides, list | tuple)
        and len(sides) == 2
        and all(isinstance(side, int) and side > 0 for side in sides)
    ):
        what = f"received {sides!r}, expected two positive numbers: rows and columns of a block"
        raise UserError(Problem(f"{where}: quantization_config.weight_block_size", what))
    return sides[0], sides[1]


def dequantise(
    codes_MN: Tensor, scales: Tensor, block: tuple[int, int] | None, dtype: torch.dtype
) -> Tensor:
    """Return codes times scales as `dtype`, on the codes' device; the product is rounded once.

    `scales` is the grid [ceil(M / A), ceil(N / B)], or one number where `block` is None.
    """
    rows, columns = codes_MN.shape
    high, wide = block or (max(rows, 1), max(columns, 1))
    scales = scales.float().reshape(-(-rows // high), -(-columns // wide))
    weight_MN = torch.empty(rows, columns, dtype=dtype, device=codes_MN.device)
    step = high * max(1, SLAB // high)
    for first in range(0, rows, step):
        slab = codes_MN[first : first + step].float()
        grid = scales[first // high : -(-(first + step) // high)]
        grid = grid.repeat_interleave(wide, 1)[:, :columns]
        weight_MN[first : first + step] = slab.mul_(grid.repeat_interleave(high, 0)[: len(slab)])
    return weight_MN


def quantise(weight_MN: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """Return E4M3 codes (M, N) and float32 scales [ceil(M / 128), ceil(N / 128)] of a weight.

    A scale is the block's largest magnitude over 448, with `power_of_two` rounded up to one
    (V3.1's `scale_fmt: ue8m0`). A block of zeros has scale 1.
    """
    rows, columns = weight_MN.shape
    high, wide = BLOCK
    codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=weight_MN.device)
    scales = []
    for first in range(0, rows, high):
        slab = weight_MN[first : first + high].float()
        padded = torch.nn.functional.pad(slab, (0, -columns % wide))
        tiles = padded.view(len(slab), -1, wide)
        amax = tiles.abs().amax(dim=(0, 2))
        # Below, 448 / amax would be no finite number; such blocks round towards zero.
        floored = amax.clamp(min=2.0**-117)
        scale, inverse = floored / E4M3_MAX, torch.full_like(floored, E4M3_MAX) / floored
        if power_of_two:
            mantissa, exponent = torch.frexp(scale)
            scale = torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).int())
            inverse = 1 / scale
        scale = torch.where(amax == 0, 1.0, scale)
        tiles = tiles * torch.where(amax == 0, 1.0, inverse)[:, None]
        codes[first : first + high] = tiles.view(padded.shape)[:, :columns].to(codes.dtype)
        scales.append(scale)
    grid = torch.stack(scales) if scales else weight_MN.new_empty(0, -(-columns // wide)).float()
    return codes, grid


class LazyWeight:
    """A tensor of a checkpoint that is read, and dequantised where it is codes, when indexed.

    It stands in for a slice of safetensors, of which transformers' loader asks no more than this.
    """

    def __init__(
        self,
        piece: Any,
        scales: Any = None,
        block: tuple[int, int] | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: Any = "cpu",
    ) -> None:
        self.piece, self.scales, self.block = piece, scales, block
        self.dtype, self.device = dtype, device

    def get_shape(self) -> list[int]:
        """Return the weight's shape."""
        return list(self.piece.get_shape())

    def get_dtype(self) -> str:
        """Return the weight's type as safetensors calls it, dequantised."""
        return self.piece.get_dtype() if self.scales is None else "F32"

    def __getitem__(self, index: Any) -> Tensor:
        if self.scales is None:
            return self.piece[index]
        codes, scales = self.piece[...].to(self.device), self.scales[...].to(self.device)
        weight = dequantise(codes, scales, self.block, self.dtype)
        return weight if index is Ellipsis else weight[index]


def save_fp8_checkpoint(
    model: DeepseekForCausalLM,
    folder: str | Path,
    power_of_two: bool = False,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `model` as V3's public FP8 checkpoint: codes, scales, and `quantization_config`.

    Weights V3 keeps in high precision are written as bfloat16, routers' biases as float32. With
    `power_of_two` scales are those of V3.1. Quantised weights of such a checkpoint come back with
    the codes they were read with. One shard at a time is held quantised. Raises UserError for
    weights that are not finite.
    """
    from transformers.core_model_loading import revert_weight_conversion

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = dict(model.state_dict())
    for name in getattr(model, "all_tied_weights_keys", None) or {}:
        state.pop(name, None)
    # One matrix per expert; the matrices are views of the fused tensors.
    names: dict[str, Tensor] = revert_weight_conversion(model, state)
    shards = _shards(names, max_shard_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    for file in (*folder.glob("model-*-of-*.safetensors"), folder / WEIGHTS, folder / INDEX):
        file.unlink(missing_ok=True)
    for number, shard in enumerate(shards, start=1):
        whole = len(shards) == 1
        file = WEIGHTS if whole else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = dict(_encoded({name: names[name] for name in shard}, power_of_two))
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / INDEX).write_text(text, encoding="utf-8")
    config: Any = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], "bfloat16"
    config.quantization_config = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": list(BLOCK),
        **({"scale_fmt": "ue8m0"} if power_of_two else {}),
    }
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def _shards(names: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    """Return the names file by file, in order, none larger than `limit` bytes when written."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, tensor in names.items():
        size = tensor.numel() * (1 if _is_quantised(name, tensor) else 2)
        if shards[-1] and held + size > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _encoded(tensors: Mapping[str, Tensor], power_of_two: bool) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if not bool(tensor.isfinite().all()):
            raise UserError(Problem(name, "has infinite or undefined numbers; nothing to write"))
        if _is_quantised(name, tensor):
            codes, scales = quantise(tensor, power_of_two)
            yield name, codes.cpu()
            yield name + SCALE, scales.cpu()
        else:
            kept = name.endswith("e_score_correction_bias")
            dtype = torch.float32 if kept else torch.bfloat16
            yield name, tensor.to(device="cpu", dtype=dtype).contiguous()


def _is_quantised(name: str, tensor: Tensor) -> bool:
    parts = name.split(".")
    return parts[-1] == "weight" and parts[-2] in QUANTISED and tensor.ndim == 2
