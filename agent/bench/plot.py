"""A run as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.bench.contest import Row
from agent.bench.report import Report

#: Bars begin at 0 unless the shortest would be lost beside the longest.
_MOST_ON_A_LINE = 100.0

_UNITS = {"steps": ("environment steps/s", 1.0), "payload": ("MB/s", 1e-6)}


def draw(report: Report, over: str, path: Path) -> None:
    """Bars, one for each row; or lines over an attribute of the cases, one for each peer.

    Args:
        report: what to draw.
        over: "link", "servers" or "envs"; empty for bars.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.turns]
    height = 4.5 if over else 0.35 * len(rows) + 1.6
    figure = Figure(figsize=(9, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    label, factor = _UNITS[report.metric]
    if over:
        _lines(axes, rows, over, report.metric, factor)
        axes.set_ylabel(label)
    else:
        _bars(axes, rows, report.metric, factor)
        axes.set_xlabel(label)
    axes.set_title(report.title, fontsize="small", wrap=True)
    figure.savefig(path, dpi=120)


def _bars(axes: Any, rows: list[Row], metric: str, factor: float) -> None:
    kinds = list(dict.fromkeys((row.case.simulator, row.case.envs) for row in rows))
    names = [f"{row.title}\n{row.case.simulator} ×{row.envs}" for row in rows]
    values = [row.median_rate(metric) * factor for row in rows]
    colors = [f"C{kinds.index((row.case.simulator, row.case.envs))}" for row in rows]
    bars = axes.barh(range(len(rows)), values, color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize="x-small")
    axes.set_yticks(range(len(rows)), names, fontsize="x-small")
    axes.invert_yaxis()
    if min(values, default=1.0) * _MOST_ON_A_LINE < max(values, default=0.0):
        axes.set_xscale("log")
    axes.margins(x=0.15, y=0.02)
    axes.grid(axis="x", alpha=0.3)


def _lines(axes: Any, rows: list[Row], over: str, metric: str, factor: float) -> None:
    for peer in dict.fromkeys(row.case.peer for row in rows):
        own = [row for row in rows if row.case.peer == peer]
        axes.plot(
            [str(getattr(row.case, over)) for row in own],
            [row.median_rate(metric) * factor for row in own],
            marker="o",
            label=own[0].title,
        )
    axes.set_xlabel(over)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if rows:
        axes.legend(fontsize="small")
