"""The learning curve as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Columns of ``progress.csv`` that get a panel if they are there, with their labels; besides them
#: those that begin with ``_GROUP_RETURN``.
_PANELS = {"return_mean": "mean return", "info/slowdown": "mean job slowdown"}
_GROUP_RETURN = "group_return/"

#: Panels side by side, of which more are too small to read.
_MOST_PANELS = 4


def draw(
    rows: Sequence[Mapping[str, str]],
    path: Path,
    title: str,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
) -> bool:
    """Draws returns, and slowdowns or the groups' returns where there are any, over steps.

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

    labels = _PANELS | {
        column: f"mean return of one of {column.removeprefix(_GROUP_RETURN)}"
        for column in (rows[-1] if rows else ())
        if column.startswith(_GROUP_RETURN)
    }
    curves = {column: _points(rows, column) for column in labels}
    curves = {column: points for column, points in curves.items() if points}
    if not curves:
        return False
    curves = dict(list(curves.items())[:_MOST_PANELS])
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
        axes.set_ylabel(labels[column])
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
