"""A comparison as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.evaluation.summary import Estimate, Summary

#: Policies whose episodes were nearly all cut short have no slowdown worth a place on the axis.
_MOSTLY = 0.5


def draw_loads(summaries: Sequence[Summary], path: Path, title: str) -> None:
    """Mean slowdowns over the chance of an arrival, one line for each policy.

    Values of policies that mostly did not finish their episodes are left out: the jobs that were
    never placed, which are the worst, have no slowdown.
    """
    figure, axes = _figure(8, 4.5)
    for policy in dict.fromkeys(summary.policy for summary in summaries):
        points = [
            summary
            for summary in summaries
            if summary.policy == policy and summary.truncated <= _MOSTLY * summary.episodes
        ]
        if points:
            _line(axes, points, policy)
    axes.set_xlabel("chance of a new job in a time step")
    axes.set_xticks(sorted({summary.load for summary in summaries}))
    axes.set_ylabel("mean job slowdown")
    axes.set_yscale("log")
    ticks = [1, 2, 3, 5, 10, 20]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside right upper")
    axes.set_title(title, fontsize="medium")
    figure.savefig(path, dpi=120)


def draw_bars(summaries: Sequence[Summary], path: Path, title: str) -> None:
    """Mean returns, one bar for each policy."""
    figure, axes = _figure(6, 0.6 * len(summaries) + 1.5)
    names = [summary.policy for summary in summaries]
    returns = [summary.total_return for summary in summaries]
    axes.barh(
        names,
        [estimate.mean for estimate in returns],
        xerr=[_bar(estimate) for estimate in returns],
        color=[f"C{number}" for number in range(len(names))],
        capsize=4,
    )
    axes.invert_yaxis()
    axes.set_xlabel("mean return, with standard error")
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title)
    figure.savefig(path, dpi=120)


def _line(axes: Any, points: Sequence[Summary], label: str) -> None:
    axes.errorbar(
        [point.load for point in points],
        [point.slowdown.mean for point in points],
        yerr=[_bar(point.slowdown) for point in points],
        label=label,
        marker="o",
        markersize=4,
        capsize=3,
    )


def _bar(estimate: Estimate) -> float:
    return 0.0 if math.isnan(estimate.error) else estimate.error


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
