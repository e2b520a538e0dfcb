"""Errors and lengths per operation over the RL stages of several runs, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1pipe.report.plots import WINDOW, running_mean
from r1pipe.report.records import RunRecord
from r1pipe.report.svg import MUTED, PAPER, RC, SERIES

OPERATIONS = {"add": "+", "sub": "−", "mul": "×", "div": "÷"}
FEWEST = 1e-4
"""Lowest error drawn: the axis is logarithmic, and a step may have none."""


def write_curves(runs: Sequence[RunRecord], path: Path) -> Path | None:
    """Draw one column a GRPO stage; None where no run has one."""
    names = list(dict.fromkeys(s.name for run in runs for s in run.stages if s.kind == "grpo"))
    if not names:
        return None
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with mpl.rc_context(RC):
        figure = Figure(figsize=(3.4 * len(names), 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(names), squeeze=False, sharex="col")
        for column, name in enumerate(names):
            errors, lengths = axes[0][column], axes[1][column]
            for run in runs:
                stage = run.stage(name)
                if stage is not None:
                    _draw(errors, stage.history, "accuracy", invert=True)
                    _draw(lengths, stage.history, "length")
            errors.set_yscale("log")
            errors.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
            errors.yaxis.set_minor_formatter(NullFormatter())
            errors.set_title(f"{name}: wrong at T=1")
            lengths.set_title("tokens of a completion")
            lengths.set_ylim(bottom=0)
            lengths.set_xlabel("step")
        for place, (sign, colour) in enumerate(zip(OPERATIONS.values(), SERIES, strict=False)):
            axes[0][0].annotate(sign, (0.02 + 0.07 * place, 0.04), xycoords="axes fraction",
                                color=colour, fontsize=11, weight="bold")  # fmt: skip
        axes[1][-1].annotate(f"running mean over {WINDOW} steps", (1, -0.32), ha="right",
                             xycoords="axes fraction", color=MUTED, fontsize=7)  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=160, facecolor=PAPER)
    return path


def _draw(axes: Any, history: list[dict[str, Any]], measure: str, invert: bool = False) -> None:
    for task, colour in zip(OPERATIONS, SERIES, strict=False):
        found = [(r["step"], r[k]) for r in history if (k := f"tasks/{task}/{measure}") in r]
        if not found:
            continue
        steps, values = zip(*found, strict=True)
        shown = running_mean([1 - v for v in values] if invert else list(values))
        shown = [max(value, FEWEST) for value in shown] if invert else shown
        axes.plot(steps, shown, color=colour, linewidth=1.0, alpha=0.8)
