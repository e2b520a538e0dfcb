"""Loads checkpoints in public layout, plain or block-scaled FP8, into plain trainable weights."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.accelerate import get_device
from transformers.modeling_utils import is_fsdp_enabled, is_local_dist_rank_0
from transformers.utils import logging

from r1pipe.errors import Problem, UserError
from r1pipe.models.deepseek.checkpoint import (
    SCALE,
    Header,
    check_grids,
    check_names_and_shapes,
    check_types,
    layer_of,
    mtp_layers_in,
    read_headers,
    weight_files,
)
from r1pipe.models.deepseek.checkpoint_fp8 import LazyWeight, block_of
from r1pipe.models.deepseek.configuration import DeepseekConfig

logger = logging.get_logger(__name__)

BESIDE = ("input_scale", "activation_scale")
"""Scales of activations, which some FP8 checkpoints hold beside those of weights: not used."""


READ_IN_TURN = "HF_DEACTIVATE_ASYNC_LOAD"
"""transformers' switch for loading without threads."""


class PublicCheckpoints:
    """Mixin before transformers' model classes: what `from_pretrained` does differently here.

    FP8 weights are dequantised one by one while they are read: transformers' own quantiser keeps
    codes, which cannot be trained, or refuses V3's files for their 576 rows in blocks of 128.
    """

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint in public layout; raises UserError naming files and tensors at fault.

        FP8 weights become `dtype`, bfloat16 where neither it nor config.json names one, on the
        device `device_map` says; the config then no longer speaks of quantisation. Without MTP
        weights in the checkpoint the model has no MTP modules, whatever its config.json says, as
        stock transformers writes it: `add_mtp_layers` makes fresh ones.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        config: Any = kwargs.pop("config", None)
        if config is None or isinstance(config, str | Path):
            read: Any = DeepseekConfig.from_pretrained(
                config or path, return_unused_kwargs=True, **kwargs
            )
            config, kwargs = read
        own = type(config) is DeepseekConfig
        config = copy.deepcopy(config) if own else DeepseekConfig.from_stock(config)
        _leave_quantisation(config, kwargs, str(path))
        plain_folder = not kwargs.get("subfolder") and not kwargs.get("variant")
        if plain_folder and Path(str(path)).is_dir():
            weight_files(Path(str(path)))  # transformers' own message for a missing file is vague
            known = mtp_layers_in(path)
            if known is not None:
                first, asked = config.num_hidden_layers, config.num_nextn_predict_layers
                config.num_nextn_predict_layers = sum(first + k in known for k in range(asked))
        loaded: Any = cast(Any, super()).from_pretrained(
            path, *args, config=config, output_loading_info=True, **kwargs
        )
        model, info = loaded
        _check_loaded(model, info, str(path))
        return (model, info) if wants_info else model

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kw: Any
    ) -> Any:
        """Check the files, and hand transformers weights instead of codes."""
        parent = cast(Any, super(PublicCheckpoints, cast(Any, type(model))))._load_pretrained_model
        files = [Path(file) for file in checkpoint_files or []]
        if state_dict is not None or not files or files[0].suffix != ".safetensors":
            return parent(model, state_dict, checkpoint_files, load_config, *args, **kw)
        headers = read_headers(files)
        if is_fsdp_enabled() and not is_local_dist_rank_0():
            return _nothing_read(parent, model, load_config)
        quantised = set(check_types(headers))
        model_has = {name: h for name, h in headers.items() if not name.endswith(SCALE)}
        if not load_config.ignore_mismatched_sizes:
            ignored = model._keys_to_ignore_on_load_missing or ()
            check_names_and_shapes(model_has, model, ignored)
        if not quantised:
            with _one_at_a_time():
                return parent(model, None, checkpoint_files, load_config, *args, **kw)
        block = _block_beside(files[0])
        check_grids(headers, quantised, block)
        with ExitStack() as stack:
            lazy = _lazy_weights(stack, headers, quantised, block, load_config)
            if is_deepspeed_zero3_enabled():  # shares whole tensors out, one layer at a time
                lazy = {name: weight[...] for name, weight in lazy.items()}
            with _one_at_a_time():
                return parent(model, lazy, None, load_config, *args, **kw)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep transformers' threads from reading ahead.

    They read faster than experts are put together, and what is put together then comes on top of
    all its parts: twice the model.
    """
    before = os.environ.get(READ_IN_TURN)
    os.environ[READ_IN_TURN] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[READ_IN_TURN]
        else:
            os.environ[READ_IN_TURN] = before


def _nothing_read(parent: Any, model: Any, load_config: Any) -> Any:
    """Leave the weights zero, as FSDP's other ranks get them from the first one of their machine.

    transformers reads the files on every rank, to throw the weights away.
    """
    info, offloaded = parent(model, {}, None, load_config)
    info.missing_keys &= set(getattr(model, "all_tied_weights_keys", None) or {})
    model._weight_conversions = None  # not none used, but unknown: saving asks the mapping
    return info, offloaded


def _lazy_weights(
    stack: ExitStack,
    headers: Mapping[str, Header],
    quantised: set[str],
    block: tuple[int, int] | None,
    load_config: Any,
) -> dict[str, Any]:
    """Return every weight by name, none of them read; files stay open as long as `stack`."""
    files = {header.file for header in headers.values()}
    opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}
    dtype = load_config.dtype or torch.float32
    lazy = {}
    for name, header in headers.items():
        if name.endswith((SCALE, *BESIDE)):
            continue
        device = get_device(load_config.device_map, name, True)
        piece = opened[header.file].get_slice(name)
        scales = None
        if name in quantised:
            beside = headers[name + SCALE]
            scales = opened[beside.file].get_slice(name + SCALE)
        lazy[name] = LazyWeight(piece, scales, block, dtype, device)
    return lazy


def _leave_quantisation(config: Any, kwargs: dict[str, Any], where: str) -> None:
    """Take FP8 out of the config and the options, so that weights are ordinary ones from here on.

    Raises UserError, naming it, for a quantisation that is another one.
    """
    asked = kwargs.get("quantization_config")
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return
    block_of(stored, where)
    del config.quantization_config
    if asked is not None:
        content = asked if isinstance(asked, dict) else asked.to_dict()
        method = getattr(content.get("quant_method"), "value", content.get("quant_method"))
        if method == "fp8":
            kwargs.pop("quantization_config")
    if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
        kwargs["dtype"] = "auto"
    for name in ("dtype", "torch_dtype"):
        if kwargs.get(name) == "auto" and str(config.dtype).removeprefix("torch.") not in (
            "float32",
            "float16",
            "bfloat16",
        ):
            kwargs[name] = torch.bfloat16


def _block_beside(file: Path) -> tuple[int, int] | None:
    """Return the blocks that the config.json beside a checkpoint's file speaks of."""
    path = file.parent / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    return block_of(content.get("quantization_config"), str(path))


def _check_loaded(model: Any, info: dict[str, Any], where: str) -> None:
    """Raise UserError for weights the checkpoint lacks; drop MTP modules it has none for."""
    if scales := sorted(name for name in info["unexpected_keys"] if name.endswith(SCALE)):
        what = f"weights were read without their scales, such as {scales[0]}"
        hint = "this version of transformers loads differently: use one that pyproject.toml names"
        raise UserError(Problem(where, what, hint))
    missing = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    main = model.config.num_hidden_layers
    if missing and all(layer_of(name) >= main for name in missing):
        logger.warning("the checkpoint has no weights for MTP modules: loaded without them")
        backbone = model.base_model
        backbone.layers, missing = backbone.layers[:main], []
        model.config.num_nextn_predict_layers = 0
    if missing:
        what = f"weights missing or of another shape: {', '.join(missing[:4])}"
        hint = "is its config.json the one it was saved with?"
        raise UserError(Problem(where, what, hint))
