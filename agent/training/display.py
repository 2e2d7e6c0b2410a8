"""Progress of training on the terminal, or as lines in a log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from agent.training.iteration import Iteration
from agent.training.stopping import StopConditions

#: Endings of infos that are shown, the most telling first; what they are called, where that is not
#: their name; digits behind the point.
_SHOWN_INFOS = (
    ("slowdown", "slowdown", 2),
    ("success_last", "", 2),
    ("correct_last", "", 2),
    ("occupied_landmarks_last", "occupied", 2),
    ("distance_last", "", 2),
    ("collisions_mean", "collisions", 3),
)
_MOST_INFOS = 3


class Display(Protocol):
    """Shows one iteration after the other; a context manager."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, iteration: Iteration) -> None:
        """Shows the latest iteration."""


def display_on(console: Console, stop: StopConditions) -> Display:
    """One table that is kept up to date on a terminal, one line for each iteration elsewhere."""
    return _Table(console, stop) if console.is_terminal else _Lines(console, stop)


class _Lines:
    def __init__(self, console: Console, stop: StopConditions) -> None:
        self._console = console
        self._stop = stop

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def show(self, iteration: Iteration) -> None:
        cells = [f"{name} {value}" for name, value in _cells(iteration, self._stop).items()]
        self._console.print("  ".join(cells), highlight=False, soft_wrap=True)


class _Table:
    def __init__(self, console: Console, stop: StopConditions) -> None:
        self._stop = stop
        self._live = Live(_waiting(), console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> _Table:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def show(self, iteration: Iteration) -> None:
        cells = _cells(iteration, self._stop)
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for name in cells:
            table.add_column(name, justify="right", header_style="dim")
        table.add_row(*cells.values())
        outer = Table.grid()
        outer.add_row(table)
        fraction = self._stop.fraction(iteration)
        if not math.isnan(fraction):
            outer.add_row(ProgressBar(total=1.0, completed=fraction, width=60))
        self._live.update(outer)


def _waiting() -> Table:
    grid = Table.grid()
    grid.add_row("[dim]first iteration …[/dim]")
    return grid


def _cells(iteration: Iteration, stop: StopConditions) -> dict[str, str]:
    cells = {
        "iteration": str(iteration.number),
        "steps": f"{iteration.steps:,}",
        "steps/s": f"{iteration.steps_per_second:,.0f}",
        "return": _number(iteration.mean_return),
    }
    cells |= {group: _number(value) for group, value in iteration.group_returns.items()}
    cells |= _scenario(iteration.infos)
    if iteration.faults:
        cells["faults"] = str(iteration.faults)
    cells["elapsed"] = duration(iteration.seconds)
    left = stop.seconds_left(iteration)
    if not math.isnan(left):
        cells["left"] = duration(left)
    return cells


def _scenario(infos: Mapping[str, float]) -> dict[str, str]:
    """What a simulator says that people want to see on the way: at most ``_MOST_INFOS``."""
    shown: dict[str, str] = {}
    for ending, label, digits in _SHOWN_INFOS:
        for name in sorted(infos):
            if not name.endswith(ending) or len(shown) == _MOST_INFOS:
                continue
            stem, last = name.rpartition("/")[::2]
            group = f"{stem} " if stem else ""
            text = label or last.removesuffix("_last").replace("_", " ")
            shown.setdefault(f"{group}{text}", f"{infos[name]:.{digits}f}")
    return shown


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Like "1:02:03" or "2:03"."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
