"""A comparison of line-ups as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from agent.evaluation.multi_agent.summary import TeamSummary
from agent.evaluation.summary import Estimate


def draw_returns(summaries: Sequence[TeamSummary], path: Path, title: str) -> None:
    """Mean returns, one bar for each line-up.

    Those of all agents together, and where there are several groups of an agent of each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {"return, summed over agents": [summary.total_return for summary in summaries]}
    groups = summaries[0].groups
    if len(groups) > 1:
        for name, group in groups.items():
            label = f"{name}, each" if len(group.agents) > 1 else name
            panels[label] = [summary.groups[name].each for summary in summaries]
    figure = Figure(
        figsize=(3 + 2.6 * len(panels), 0.5 * len(summaries) + 1.5), layout="constrained"
    )
    FigureCanvasAgg(figure)
    names = [summary.name for summary in summaries]
    colors = [f"C{number}" for number in range(len(names))]
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (label, estimates) in zip(grid, panels.items(), strict=True):
        axes.barh(
            range(len(names)),
            [estimate.mean for estimate in estimates],
            xerr=[_bar(estimate) for estimate in estimates],
            color=colors,
            capsize=3,
        )
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
    grid[0].invert_yaxis()
    figure.suptitle(f"{title}; mean return with standard error", fontsize="medium")
    figure.savefig(path, dpi=120)


def _bar(estimate: Estimate) -> float:
    return 0.0 if math.isnan(estimate.error) else estimate.error
