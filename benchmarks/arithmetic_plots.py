"""Errors and lengths per operation over the RL stages of several runs, as one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from r1pipe.report.records import RunRecord
from r1pipe.report.svg import MUTED, PAPER, RC, SERIES

Show = Callable[[float], float]
OPERATIONS = {"add": "+", "sub": "−", "mul": "×", "div": "÷"}
FEWEST = 1e-3
"""Lowest error drawn: the axis is logarithmic, and a step may have none."""


def write_curves(runs: Sequence[RunRecord], path: Path) -> Path | None:
    """Draw one column a GRPO stage; None where no run has one."""
    names = list(dict.fromkeys(s.name for run in runs for s in run.stages if s.kind == "grpo"))
    if not names:
        return None
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with mpl.rc_context(RC):
        figure = Figure(figsize=(3.4 * len(names), 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(names), squeeze=False, sharex="col")
        for column, name in enumerate(names):
            errors, lengths = axes[0][column], axes[1][column]
            histories = [stage.history for run in runs if (stage := run.stage(name)) is not None]
            _draw(errors, histories, "accuracy", lambda right: max(1 - right, FEWEST))
            _draw(lengths, histories, "length", lambda tokens: tokens)
            errors.set_yscale("log")
            errors.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            errors.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
            errors.yaxis.set_minor_formatter(NullFormatter())
            errors.set_title(f"{name}: wrong at T=1")
            lengths.set_title("tokens of a completion")
            lengths.set_ylim(bottom=0)
            lengths.set_xlabel("step")
        for place, (sign, colour) in enumerate(zip(OPERATIONS.values(), SERIES, strict=False)):
            axes[0][0].annotate(sign, (0.02 + 0.07 * place, 0.04), xycoords="axes fraction",
                                color=colour, fontsize=11, weight="bold")  # fmt: skip
        note = f"thick: mean of the seeds; errors below {100 * FEWEST:g} % drawn there"
        axes[1][-1].annotate(note, (1, -0.32), ha="right",
                             xycoords="axes fraction", color=MUTED, fontsize=7)  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=160, facecolor=PAPER)
    return path


def _draw(
    axes: Any, histories: Sequence[Sequence[dict[str, Any]]], measure: str, show: Show
) -> None:
    """Draw a measure of every operation: a faint line a seed, a thick one for their mean."""
    for task, colour in zip(OPERATIONS, SERIES, strict=False):
        key = f"tasks/{task}/{measure}"
        found: dict[int, list[float]] = {}
        for history in histories:
            points = {row["step"]: row[key] for row in history if key in row}
            axes.plot(list(points), [*map(show, points.values())], color=colour, lw=0.6, alpha=0.25)
            for step, value in points.items():
                found.setdefault(step, []).append(value)
        means = [show(sum(found[step]) / len(found[step])) for step in sorted(found)]
        axes.plot(sorted(found), means, color=colour, linewidth=1.3)
