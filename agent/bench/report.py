"""The result: a table on the terminal, in Markdown and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from agent.bench.case import Baseline
from agent.bench.contest import Row, base_of

#: What, simulator, environments, two more where there are several servers or links, and the rates.
_FEWEST_COLUMNS = 5

#: Of the columns of text, in characters.
_LEAST_WIDTHS = (20, 9)

_PACKAGES = ("farsim", "grpcio", "protobuf", "numpy", "gymnasium", "ray", "torch", "dm-env-rpc")


@dataclass(frozen=True)
class Report:
    """A run and what is to be told of it.

    Attributes:
        title: the question, and how it was measured.
        rows: in order.
        baseline: what rows are compared with.
        metric: by which: "steps" or "payload".
        notes: peers that are absent, and the like.
        machine: in words.
    """

    title: str
    rows: Sequence[Row]
    baseline: Baseline
    metric: str
    notes: Sequence[str]
    machine: str

    @property
    def columns(self) -> list[tuple[str, Callable[[Row], str]]]:
        """Heading and cell of each column; the first two are text, the others numbers."""
        cases = [row.case for row in self.rows]
        columns: list[tuple[str, Callable[[Row], str]]] = [
            ("what", lambda row: row.title),
            ("simulator", lambda row: row.case.simulator),
            ("envs", lambda row: f"{row.envs:,}"),
        ]
        if any(case.servers > 1 for case in cases):
            columns.append(("servers", lambda row: str(row.case.servers)))
        if any(case.link.is_there for case in cases):
            columns.append(("link", lambda row: str(row.case.link)))
        return [
            *columns,
            ("steps/s", lambda row: _number(row.median_rate("steps"), 0)),
            (f"ratio to {self.baseline.value}", self._ratio),
            ("p50 ms", lambda row: _scaled(row.median("p50"), 1e3)),
            ("p99 ms", lambda row: _scaled(row.median("p99"), 1e3)),
            ("MB/s", lambda row: _scaled(row.median_rate("payload"), 1e-6)),
            ("CPU s/M head", lambda row: _number(row.cpu_per_million("head_cpu"), 1)),
            ("CPU s/M sims", lambda row: _number(row.cpu_per_million("simulator_cpu"), 1)),
            ("MB head", lambda row: _scaled(row.head_peak, 1e-6, 0)),
            ("MB sims", lambda row: _scaled(row.simulator_peak, 1e-6, 0)),
        ]

    def _ratio(self, row: Row) -> str:
        base = base_of(row, self.rows, self.baseline)
        return "–" if base is None else _number(row.ratio(base, self.metric), 2)

    @property
    def remarks(self) -> list[str]:
        """What the table leaves out."""
        failed = [f"failed: {row.case}: {row.failure}" for row in self.rows if row.failure]
        return [*failed, *self.notes]

    def show(self, console: Console) -> None:
        """Prints it; where a terminal is narrow, without the last columns."""
        unbounded = console.options.update(max_width=1000)
        for count in range(len(self.columns), _FEWEST_COLUMNS - 1, -1):
            table = self._table(count)
            if Measurement.get(console, unbounded, table).minimum <= console.width:
                break
        console.print(table)
        if count < len(self.columns):
            left_out = ", ".join(heading for heading, _ in self.columns[count:])
            console.print(f"no room for: {left_out}; --out keeps them", style="dim")
        for remark in self.remarks:
            console.print(remark, style="dim", highlight=False, markup=False)

    def _table(self, count: int) -> Table:
        """The first ``count`` columns."""
        table = Table(title=self.title, caption=self.machine)
        columns = self.columns[:count]
        for number, (heading, cell) in enumerate(columns):
            if number < 2:
                table.add_column(heading, min_width=_LEAST_WIDTHS[number])
            else:
                # Headings may be broken between words, numbers not.
                texts = [*(cell(row) for row in self.rows), *heading.split()]
                table.add_column(heading, justify="right", min_width=max(map(len, texts)))
        previous = None
        for row in self.rows:
            kind = (row.case.simulator, row.case.envs)
            if previous is not None and kind != previous and not _is_line(self.baseline):
                table.add_section()
            previous = kind
            table.add_row(*(cell(row) for _, cell in columns))
        return table

    def as_markdown(self) -> str:
        """The table for a page."""
        headings = [heading for heading, _ in self.columns]
        lines = [
            f"{self.title}.",
            "",
            f"{self.machine}.",
            "",
            f"| {' | '.join(headings)} |",
            f"|{'|'.join('---' if number < 2 else '--:' for number in range(len(headings)))}|",
            *(f"| {' | '.join(cell(row) for _, cell in self.columns)} |" for row in self.rows),
        ]
        if self.remarks:
            first_lines = [remark.partition("\n")[0] for remark in self.remarks]
            lines += ["", *(f"- {remark}" for remark in first_lines)]
        return "\n".join(lines) + "\n"

    def as_json(self) -> str:
        """Every turn, for programs."""
        document = {
            "title": self.title,
            "machine": self.machine,
            "baseline": asdict(self.baseline),
            "notes": list(self.notes),
            "rows": [self._plain(row) for row in self.rows],
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def _plain(self, row: Row) -> dict[str, Any]:
        base = base_of(row, self.rows, self.baseline)
        return {
            **asdict(row.case),
            "link": str(row.case.link),
            "title": row.title,
            "environments_stepped": row.envs,
            "steps_per_second": row.median_rate("steps"),
            "bytes_per_second": row.median_rate("payload"),
            "ratio": None if base is None else row.ratio(base, self.metric),
            "head_peak_bytes": row.head_peak,
            "simulator_peak_bytes": row.simulator_peak,
            "failure": row.failure,
            "turns": [asdict(turn) for turn in row.turns],
        }


def machine(pinned: bool) -> str:
    """The processor, the versions, and whether all ran on one core."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    cores = "pinned to one core" if pinned else f"free on {os.cpu_count()} cores"
    return f"{name}, {cores}; Python {platform.python_version()}, {', '.join(versions)}"


def _is_line(baseline: Baseline) -> bool:
    return baseline.attribute != "peer"


def _number(value: float | None, digits: int) -> str:
    return f"{value:,.{digits}f}" if value else "–"


def _scaled(value: float | None, factor: float, digits: int = 2) -> str:
    return "–" if value is None else _number(value * factor, digits)
