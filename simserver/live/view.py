"""What `farsim live` shows while it runs, and at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from simserver.live.driver import Driver, Progress

#: How many of the last episodes are shown at a time.
_ROWS = 12


class View:
    """A table that changes on a terminal; elsewhere one plain line for each episode.

    Args:
        console: where to print.
        driver: what runs.
        rival: the name of the rule to compare with; empty for none.
        title: above the table.
    """

    def __init__(self, console: Console, driver: Driver, rival: str, title: str) -> None:
        self._console = console
        self._driver = driver
        self._rival = rival
        self._title = title
        self._printed: set[int] = set()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(self._title, highlight=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(Text(""), refresh=True)
            self._live.stop()

    def update(self) -> None:
        """Shows how things are now."""
        episodes = list(self._driver.episodes)
        if self._live is not None:
            shown = [*episodes[-_ROWS:]]
            self._live.update(Group(self._table(shown), Text(self._speed())), refresh=True)
            return
        for progress in episodes:
            if progress.outcome and progress.number not in self._printed:
                self._printed.add(progress.number)
                self._console.print(self._line(progress), highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """The last word: every episode in a table, means, and how fast it was."""
        self.update()
        if self._live is not None:
            self._live.update(Text(""), refresh=True)
        episodes = [one for one in self._driver.episodes if one.outcome]
        if 0 < len(episodes) <= 50:
            self._console.print(self._table(episodes))
        self._console.print(self._means(episodes), highlight=False, soft_wrap=True)
        self._console.print(self._speed(), highlight=False, soft_wrap=True)

    def _table(self, episodes: Sequence[Progress]) -> Table:
        # Eleven columns at most, in the 80 characters of a small terminal.
        table = Table(
            title=self._title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        has_fallbacks = any(one.fallbacks for one in episodes)
        has_slowdown = any(one.own.slowdown is not None for one in episodes)
        for name in ("episode", "seed", "steps", "return"):
            table.add_column(name, justify="right")
        if self._rival:
            table.add_column(f"{self._rival}", justify="right")
        if has_slowdown:
            table.add_column("slowdown", justify="right")
            if self._rival:
                table.add_column(f"{self._rival}", justify="right")
        table.add_column("policy", justify="right")
        if has_fallbacks:
            table.add_column("fallbacks", justify="right")
        table.add_column("outcome")
        for one in episodes:
            cells = [str(one.number), str(one.seed), str(one.own.steps), f"{one.own.total:.2f}"]
            if self._rival:
                cells.append(_rival_total(one))
            if has_slowdown:
                cells.append(_number(one.own.slowdown))
                if self._rival:
                    rival = one.rival.slowdown if one.rival is not None and one.outcome else None
                    cells.append(_number(rival))
            cells.append(f"v{one.version}" if one.version else "–")
            if has_fallbacks:
                cells.append(str(one.fallbacks))
            table.add_row(*cells, one.outcome or "runs")
        return table

    def _line(self, one: Progress) -> str:
        words = [f"episode {one.number} (seed {one.seed}): {one.own.steps} steps"]
        words.append(f"return {one.own.total:.2f}")
        if one.rival is not None:
            words.append(f"{self._rival} {_rival_total(one)}")
        if one.own.slowdown is not None:
            words.append(f"slowdown {one.own.slowdown:.2f}")
            if one.rival is not None and one.rival.slowdown is not None:
                words.append(f"{self._rival} {one.rival.slowdown:.2f}")
        if one.fallbacks:
            words.append(f"{one.fallbacks} fallback actions")
        return ", ".join([*words, one.outcome])

    def _means(self, episodes: Sequence[Progress]) -> str:
        whole = [one for one in episodes if one.outcome in ("terminated", "truncated")]
        if not whole:
            return "no episode has been played to its end"
        words = [f"{len(whole)} episodes", f"return {_mean([one.own.total for one in whole])}"]
        rivals = [one.rival.total for one in whole if one.rival is not None]
        if rivals:
            words.append(f"{self._rival} {_mean(rivals)}")
        slowdowns = [one.own.slowdown for one in whole if one.own.slowdown is not None]
        if slowdowns:
            words.append(f"slowdown {_mean(slowdowns)}")
            others = [
                one.rival.slowdown
                for one in whole
                if one.rival is not None and one.rival.slowdown is not None
            ]
            if others:
                words.append(f"{self._rival} {_mean(others)}")
        return ", ".join(words)

    def _speed(self) -> str:
        times = self._driver.times
        median, high = (1000 * seconds for seconds in times.percentiles())
        return (
            f"{times.count} actions, {times.rate():.0f} a second; an answer took "
            f"{median:.2f} ms (median), {high:.2f} ms (99th percentile)"
        )


def _rival_total(one: Progress) -> str:
    if one.rival is None:
        return ""
    return f"{one.rival.total if one.outcome else one.rival.at(one.clock):.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _mean(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {error:.3f}"
