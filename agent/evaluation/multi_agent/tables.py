"""Comparisons of line-ups as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from agent.evaluation.multi_agent.messages import Understanding
from agent.evaluation.multi_agent.summary import LAST, MEAN, TeamSummary
from agent.evaluation.summary import Estimate

#: How people say it.
_KINDS = {MEAN: "mean of all steps", LAST: "at the end"}


def returns(summaries: Sequence[TeamSummary]) -> Table:
    """A row for each line-up: the return of all agents together, and of one of each group."""
    groups = list(summaries[0].groups)
    sizes = {name: len(group.agents) for name, group in summaries[0].groups.items()}
    table = _table("policy", "return, summed")
    for name in groups:
        table.add_column(f"{name}, each" if sizes[name] > 1 else name, justify="right")
    table.add_column("steps", justify="right")
    counts = [
        name
        for name in ("truncated", "faulty")
        # Where all are truncated that is how long an episode lasts.
        if any(0 < getattr(summary, name) < summary.episodes for summary in summaries)
    ]
    for name in counts:
        table.add_column(name, justify="right")
    for summary in summaries:
        table.add_row(
            summary.name,
            str(summary.total_return),
            *(str(summary.groups[name].each) for name in groups),
            str(Estimate(summary.length.mean)),
            *(str(getattr(summary, name)) for name in counts),
        )
    return table


def infos(summaries: Sequence[TeamSummary]) -> Table | None:
    """A row for each number that the simulator says of a group; None if it says none."""
    rows = dict.fromkeys(
        (name, *info)
        for summary in summaries
        for name, group in summary.groups.items()
        for info, estimate in group.infos.items()
        if not math.isnan(estimate.mean)
    )
    if not rows:
        return None
    several = len(summaries[0].groups) > 1
    table = _table("", *(summary.name for summary in summaries))
    for group, info, kind in rows:
        found = [summary.groups[group].infos.get((info, kind), Estimate()) for summary in summaries]
        label = f"{info}, {_KINDS[kind]}"
        table.add_row(f"{group}: {label}" if several else label, *map(str, found))
    return table


def cross(rows: str, columns: str, cells: Mapping[tuple[str, str], Estimate]) -> Table:
    """One side's policies down, the other's across.

    Args:
        rows: the side's name.
        columns: the other's.
        cells: by row and column.
    """
    across = list(dict.fromkeys(column for _, column in cells))
    table = _table(f"{rows} ↓  {columns} →", *across)
    for row in dict.fromkeys(row for row, _ in cells):
        table.add_row(row, *(str(cells[row, column]) for column in across))
    return table


def understanding(found: Sequence[Understanding]) -> Table:
    """A row for each group of a line-up with its messages as they were said, or shuffled."""
    table = _table("policy", "messages", "group", "success", "distance at the end", "return, each")
    for one in found:
        table.add_row(
            one.line_up,
            "shuffled" if one.shuffled else "intact",
            one.group,
            _percent(one.success),
            str(one.distance),
            str(one.each),
        )
    return table


def _percent(share: Estimate) -> str:
    if math.isnan(share.mean):
        return str(share)
    return f"{100 * share.mean:.1f} ± {100 * share.error:.1f} %"


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table
