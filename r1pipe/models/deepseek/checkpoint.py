"""Reads checkpoint files in public layout: which tensors they hold, and whether they are whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from r1pipe.errors import Problem, UserError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

SCALE = "_scale_inv"
"""What a quantised tensor's name is followed by in the name of its scales (V3's public layout)."""

CODES = "F8_E4M3"
PLAIN = ("F64", "F32", "F16", "BF16")
SCALES = ("F32", "BF16", "F16", "F8_E8M0")
"""Types, as safetensors calls them, that codes, other weights and scales may have."""

LISTED = 4
"""At most so many tensors are named by one message."""

_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


@dataclass(frozen=True)
class Header:
    """One tensor of a checkpoint, before it is read."""

    file: Path
    dtype: str
    """As safetensors calls it: `F32`, `BF16`, `F8_E4M3` ..."""
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path] | None:
    """Return the files of a local checkpoint, None where it has other names than the usual ones.

    Raises UserError for an index that cannot be read or names files that are not there.
    """
    if (folder / WEIGHTS).is_file():  # transformers, too, looks for this one first
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        return None
    shards = sorted(set(read_index(index).values()))
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        what = f"{len(missing)} of its {len(shards)} files are missing: {_some(missing)}"
        raise UserError(Problem(str(index), what, "download or copy them again"))
    return [folder / shard for shard in shards]


def read_index(path: Path) -> dict[str, str]:
    """Return which file of its folder holds which tensor; raises UserError for anything else."""
    try:
        names: Any = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = {str(name): file for name, file in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"is not an index of safetensors files: {type(error).__name__}: {error}"
        raise UserError(Problem(str(path), what)) from None
    for name, file in pairs.items():
        if not isinstance(file, str) or Path(file).name != file or not file:
            what = f"`{name}` is said to be in {file!r}, which is no file of this folder"
            raise UserError(Problem(str(path), what))
    if not pairs:
        raise UserError(Problem(str(path), "names no tensors"))
    return pairs


def read_headers(files: Iterable[Path]) -> dict[str, Header]:
    """Return what is in `files`, by name, without reading the tensors.

    Raises UserError for a file that is truncated or not safetensors at all, and for tensors that an
    index beside the files promises and the files do not hold.
    """
    found: dict[str, Header] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  this is no mapping
                    piece = opened.get_slice(name)
                    found[name] = Header(file, piece.get_dtype(), tuple(piece.get_shape()))
        except (SafetensorError, OSError) as error:
            what = f"cannot be read as safetensors: {error}"
            raise UserError(Problem(str(file), what, "is it complete? copy it again")) from None
    for folder in {header.file.parent for header in found.values()}:
        if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
            promised = read_index(folder / INDEX)
            if absent := [name for name in promised if name not in found]:
                what = f"{_some(absent)}: not in {promised[absent[0]]}, where the index says"
                raise UserError(Problem(str(folder / INDEX), what))
    return found


def mtp_layers_in(path: Any) -> set[int] | None:
    """Return the layers of a local checkpoint that are MTP modules; None for what is not local."""
    folder = Path(str(path))
    if (folder / WEIGHTS).is_file():
        return mtp_layers(read_headers([folder / WEIGHTS]))
    if (folder / INDEX).is_file():
        return mtp_layers(read_index(folder / INDEX))
    return None


def mtp_layers(names: Iterable[str]) -> set[int]:
    """Return the numbers of the layers with a weight that only MTP modules have."""
    own = re.compile(r"\.(enorm|hnorm|eh_proj|shared_head\.norm)\.weight$")
    return {layer_of(name) for name in names if own.search(name)}


def layer_of(name: str) -> int:
    """Return the number of the layer a weight belongs to, -1 for none."""
    match = re.match(r"(?:model\.)?layers\.(\d+)\.", name)
    return int(match.group(1)) if match else -1


def check_names_and_shapes(
    headers: Mapping[str, Header], model: Any, ignored: Iterable[str] = ()
) -> None:
    """Raise UserError naming weights of `model` that `headers` lack or hold in another shape.

    Names are compared in the public layout, one matrix per expert; fused tensors are accepted.
    Tensors the model has no place for are left to the loader's report, and so are modules for
    multi-token prediction without any weights.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    prefix = f"{model.base_model_prefix}."
    present = {_as_in(name, wanted, prefix): header for name, header in headers.items()}
    expected = _public_shapes(wanted, present)
    skip = [re.compile(pattern) for pattern in ignored]
    problems = []
    for name, header in present.items():
        if name in expected and header.shape != expected[name]:
            what = f"`{name}` is {list(header.shape)}, the config asks for {list(expected[name])}"
            problems.append(Problem(str(header.file), what))
        expert = _EXPERT.fullmatch(name)
        if expert and f"{expert.group(1)}.down_proj" in wanted and name not in expected:
            experts = wanted[f"{expert.group(1)}.down_proj"][0]
            what = f"`{name}`: the config asks for {experts} experts"
            problems.append(Problem(str(header.file), what))
    if len(problems) > LISTED:
        rest = Problem("weights", f"{len(problems) - LISTED} more do not fit the config")
        problems = [*problems[:LISTED], rest]
    main = model.config.num_hidden_layers
    filled = mtp_layers(present)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    missing = [
        name
        for name in expected
        if name not in present
        and name not in tied
        and (layer_of(name) < main or layer_of(name) in filled)
        and not any(pattern.search(name) for pattern in skip)
    ]
    if missing:
        folder = next((str(header.file.parent) for header in headers.values()), "the checkpoint")
        what = f"weights missing: {_some(missing)}"
        hint = "is its config.json the one it was saved with?"
        problems.append(Problem(folder, what, hint))
    if problems:
        raise UserError(problems)


def check_types(headers: Mapping[str, Header]) -> list[str]:
    """Return the names of the tensors that are quantised.

    Raises UserError for codes without scales, scales without codes, and types that are none of
    V3's: packed integers, four-bit formats, other eight-bit ones.
    """
    quantised, problems = [], []
    for name, header in headers.items():
        where = str(header.file)
        if name.endswith(SCALE):
            codes = headers.get(name.removesuffix(SCALE))
            if header.dtype not in SCALES:
                what = f"`{name}` holds scales of type {header.dtype}, expected {_or(SCALES)}"
                problems.append(Problem(where, what))
            elif codes is None or codes.dtype != CODES:
                what = f"`{name}` belongs to no {CODES} tensor"
                problems.append(Problem(where, what))
        elif header.dtype == CODES:
            quantised.append(name)
            if name + SCALE not in headers:
                what = f"`{name}` is quantised, and its scales `{name + SCALE}` are missing"
                hint = "only V3's block-scaled layout is read; scales under other names are not"
                problems.append(Problem(where, what, hint))
        elif header.dtype not in PLAIN and name.rpartition(".")[2] in ("weight", "bias"):
            what = f"`{name}` is of type {header.dtype}, expected {_or((*PLAIN, CODES))}"
            hint = "convert the checkpoint to bfloat16 or to V3's FP8 layout"
            problems.append(Problem(where, what, hint))
    if problems:
        raise UserError(problems[:LISTED])
    return quantised


def check_grids(
    headers: Mapping[str, Header], quantised: Iterable[str], block: tuple[int, int] | None
) -> None:
    """Raise UserError naming tensors whose scales are not one per block, counted from the corner.

    A last row or column of blocks may stick out: 576 rows under 128 have 5. Without `block` one
    scale serves a whole tensor.
    """
    problems = []
    for name in quantised:
        shape, scales = headers[name].shape, headers[name + SCALE]
        if len(shape) != 2:
            what = f"`{name}` is quantised with {len(shape)} dimensions, expected a matrix"
            problems.append(Problem(str(headers[name].file), what))
            continue
        if block is None:
            fits, need = all(side == 1 for side in scales.shape), "[1]"
        else:
            grid = tuple(-(-size // side) for size, side in zip(shape, block, strict=True))
            fits, need = scales.shape == grid, str(list(grid))
        if not fits:
            what = (
                f"`{name + SCALE}` is {list(scales.shape)}; {list(shape)} codes in blocks of "
                f"{list(block) if block else 'the whole tensor'} need {need}"
            )
            hint = "does `quantization_config.weight_block_size` in config.json fit the weights?"
            problems.append(Problem(str(scales.file), what, hint))
    if problems:
        raise UserError(problems[:LISTED])


def _public_shapes(
    wanted: Mapping[str, tuple[int, ...]], present: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of `wanted` with fused experts taken apart, unless they are `present`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in wanted.items():
        stem, _, last = name.rpartition(".")
        fused = stem.endswith("mlp.experts") and name not in present
        if fused and last == "gate_up_proj":
            for e in range(shape[0]):
                shapes[f"{stem}.{e}.gate_proj.weight"] = (shape[1] // 2, shape[2])
                shapes[f"{stem}.{e}.up_proj.weight"] = (shape[1] // 2, shape[2])
        elif fused and last == "down_proj":
            for e in range(shape[0]):
                shapes[f"{stem}.{e}.down_proj.weight"] = shape[1:]
        else:
            shapes[name] = shape
    return shapes


def _as_in(name: str, wanted: Mapping[str, Any], prefix: str) -> str:
    """Return `name` with or without the backbone's prefix, whichever the model's names have."""
    has = next(iter(wanted), "").startswith(prefix) or "lm_head.weight" in wanted
    if has and not name.startswith((prefix, "lm_head.")):
        return prefix + name
    return name if has else name.removeprefix(prefix)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _or(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"
