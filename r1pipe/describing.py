"""`describe=true`: what the model of a run amounts to, as a table; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from r1pipe.errors import Problem, UserError
from r1pipe.schema import Model, Run

if TYPE_CHECKING:
    from r1pipe.models.deepseek import Description

WEIGHTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
OPERATIONS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def describe_run(run: Run) -> str:
    """Return the table of a run's model, a column for each of its sizes.

    A model that the run builds is described from its fields, any other from the config.json at
    `model.path`. Raises UserError when neither can be read.
    """
    from r1pipe.models.building import fresh_config
    from r1pipe.models.describing import describe_config
    from r1pipe.models.loading import load_config

    model = run.model
    if model.architecture is not None:
        sizes = list(model.sizes) or [model.size]
        configs = {_name(model, size): fresh_config(model, size, run.seed) for size in sizes}
    elif model.path:
        configs = {model.path: load_config(model.path, model.load)}
    else:
        raise UserError(Problem("model.path", "names no model", "a folder or a hub id"))
    return table({name: describe_config(config) for name, config in configs.items()})


def _name(model: Model, size: str | None) -> str:
    chosen = " (chosen)" if len(model.sizes) > 1 and size == model.size else ""
    return f"{model.architecture} {size}{chosen}" if size else str(model.architecture)


def table(described: dict[str, Description]) -> str:
    """Return sizes as text: a figure a line, a model a column."""
    columns = [dict(rows(sizes)) for sizes in described.values()]
    lines = [["", *described]]
    lines += [[name, *(column[name] for column in columns)] for name in columns[0]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def rows(sizes: Description) -> Iterator[tuple[str, str]]:
    """Yield each figure with its name; `-` stands for what is not defined for the model."""
    yield "parameters", scaled(sizes.parameters, WEIGHTS)
    yield "  active per token", scaled(sizes.active_parameters, WEIGHTS)
    yield "  MTP modules, apart from these", scaled(sizes.mtp_parameters, WEIGHTS)
    own = sizes.kv_bytes_per_token
    yield "key-value cache per token, bfloat16", "-" if own is None else f"{own:,} B"
    for name, value in (
        ("as multi-head attention", sizes.kv_bytes_per_token_mha),
        ("as grouped-query, 8 heads", sizes.kv_bytes_per_token_gqa),
        ("as multi-query", sizes.kv_bytes_per_token_mqa),
    ):
        times = f" ({value / own:.1f}x)" if value and own else ""
        yield f"  {name}", "-" if value is None else f"{value:,} B{times}"
    yield "tokens attended to", f"{sizes.context:,}"
    yield "  FLOPs per token, forward", scaled(sizes.forward_flops_per_token, OPERATIONS)
    yield "  FLOPs per token, training", scaled(sizes.training_flops_per_token, OPERATIONS)


def scaled(value: int | None, units: tuple[tuple[float, str], ...]) -> str:
    """Return a number with four digits and the unit it reaches, `-` for none."""
    if value is None:
        return "-"
    for size, unit in units:
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return str(value)
