"""The learning curve as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Columns of ``progress.csv`` that get a panel, with their labels; the second if there is one.
_PANELS = {"return_mean": "mean return", "info/slowdown": "mean job slowdown"}


def draw(
    rows: Sequence[Mapping[str, str]],
    path: Path,
    title: str,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
) -> bool:
    """Draws returns, and slowdowns where there are any, over environment steps.

    Args:
        rows: of ``progress.csv``.
        path: of the PNG.
        title: of the picture.
        baselines: for other policies by name, their values by column; drawn as horizontal lines.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    curves = {column: _points(rows, column) for column in _PANELS}
    curves = {column: points for column, points in curves.items() if points}
    if not curves:
        return False
    figure = Figure(figsize=(5.5 * len(curves), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (column, points) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), index + 1)
        axes.plot(*zip(*points, strict=True), color="C0", label="training", linewidth=1.8)
        for number, (name, values) in enumerate((baselines or {}).items()):
            if column in values:
                axes.axhline(
                    values[column],
                    color=f"C{number + 1}",
                    linestyle="--",
                    linewidth=1,
                    label=name,
                )
        axes.set_xlabel("environment steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylabel(_PANELS[column])
        axes.grid(alpha=0.3)
        if index == 0 or baselines:
            axes.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return True


def _points(rows: Sequence[Mapping[str, str]], column: str) -> list[tuple[float, float]]:
    points = [(_number(row.get("steps")), _number(row.get(column))) for row in rows]
    return [point for point in points if not any(math.isnan(value) for value in point)]


def _number(text: str | None) -> float:
    return float(text) if text else math.nan
