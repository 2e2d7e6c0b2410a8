"""A comparison as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table

from agent.evaluation.summary import Estimate, Summary

#: Columns by the summary's attribute: the heading, and whether the standard error is shown.
_COLUMNS = {
    "slowdown": ("slowdown", True),
    "total_return": ("return", True),
    "unscheduled": ("unscheduled", False),
    "dropped": ("dropped", False),
    "length": ("steps", False),
}

#: A slowdown that leaves jobs out is not to be compared with one that does not.
_INCOMPLETE = "*"
INCOMPLETE_NOTE = f"{_INCOMPLETE} leaves out jobs that were never scheduled, or dropped"


def comparison(summaries: Sequence[Summary]) -> Table:
    """One row for each policy; columns that nobody has a value for are left out."""
    table = _table()
    shown = [name for name in _COLUMNS if any(_known(summary, name) for summary in summaries)]
    for name in shown:
        table.add_column(_COLUMNS[name][0], justify="right", no_wrap=True)
    counts = [
        name
        for name in ("truncated", "faulty")
        if any(getattr(summary, name) for summary in summaries)
    ]
    for name in counts:
        table.add_column(name, justify="right", no_wrap=True)
    for summary in summaries:
        cells = [_cell(summary, name) for name in shown]
        cells += [str(getattr(summary, name)) for name in counts]
        table.add_row(summary.policy, *cells)
    return table


def slowdown_by_load(summaries: Sequence[Summary]) -> Table:
    """Mean slowdowns, a row for each policy and a column for each load."""
    loads = sorted({summary.load for summary in summaries})
    found = {(summary.policy, summary.load): summary for summary in summaries}
    # Narrow enough for a terminal of 80 columns with five loads.
    table = _table(padding=1)
    for load in loads:
        table.add_column(f"{load:g}", justify="right", no_wrap=True)
    for policy in dict.fromkeys(summary.policy for summary in summaries):
        table.add_row(policy, *(_cell(found[policy, load], "slowdown") for load in loads))
    return table


def is_incomplete(summary: Summary) -> bool:
    """Whether there are jobs that its slowdown says nothing about."""
    return summary.unscheduled.mean > 0 or summary.dropped.mean > 0


def _table(padding: int = 2) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, padding, 0, 0), pad_edge=False)
    table.add_column("policy", no_wrap=True)
    return table


def _cell(summary: Summary, name: str) -> str:
    estimate: Estimate = getattr(summary, name)
    if not _COLUMNS[name][1]:
        estimate = Estimate(estimate.mean)
    mark = _INCOMPLETE if name == "slowdown" and is_incomplete(summary) else ""
    return f"{estimate}{mark}"


def _known(summary: Summary, name: str) -> bool:
    estimate: Estimate = getattr(summary, name)
    return not math.isnan(estimate.mean)
