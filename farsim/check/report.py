"""What the checks found: a table for people, JUnit's XML for continuous integration."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from farsim.check.verdicts import Outcome, Status

_STYLES = {
    Status.passed: "green",
    Status.failed: "bold red",
    Status.blocked: "yellow",
    Status.not_offered: "dim",
    Status.not_exercised: "dim",
}
_SKIPPED = (Status.blocked, Status.not_offered, Status.not_exercised)
#: How many characters of a reason the table has room for.
_NOTE = 60


def good(outcomes: Sequence[Outcome]) -> bool:
    """Whether the server keeps every promise that was tried."""
    return all(o.status not in (Status.failed, Status.blocked) for o in outcomes)


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Prints a table for the server and each simulator, what failed, and a line that sums up."""
    for simulator, own in _by_simulator(outcomes).items():
        console.print(_table(simulator or "the server", own))
    for outcome in outcomes:
        if outcome.status is Status.failed:
            where = f" of {outcome.simulator}" if outcome.simulator else ""
            console.print(Text(f"{outcome.check.title}{where}", "bold red"))
            console.print(Padding(Text(f"“{outcome.check.sentence}”", "italic"), (0, 2)))
            console.print(Padding(Text(outcome.verdict), (0, 2, 1, 2)))
    console.print(Text(summary(outcomes), "bold green" if good(outcomes) else "bold red"))


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many checks there were of each outcome, and how long they took."""
    counts = Counter(outcome.status for outcome in outcomes)
    words = {
        Status.passed: "passed",
        Status.failed: "failed",
        Status.blocked: "blocked by those",
        Status.not_offered: "not offered",
        Status.not_exercised: "not exercised",
    }
    told = [f"{counts[status]} {word}" for status, word in words.items() if counts[status]]
    seconds = sum(outcome.seconds for outcome in outcomes)
    return f"{len(outcomes)} checks: {', '.join(told) or 'none'}; {seconds:.1f} s"


def write_junit(outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes JUnit's XML: a suite for the server and each simulator, a case for each check.

    Raises:
        OSError: the file can not be written.
    """
    root = ET.Element("testsuites", name="farsim check")
    for simulator, own in _by_simulator(outcomes).items():
        suite = ET.SubElement(
            root,
            "testsuite",
            name=simulator or "server",
            tests=str(len(own)),
            failures=str(sum(o.status is Status.failed for o in own)),
            skipped=str(sum(o.status in _SKIPPED for o in own)),
            errors="0",
            time=f"{sum(o.seconds for o in own):.3f}",
        )
        for outcome in own:
            case = ET.SubElement(
                suite,
                "testcase",
                classname=".".join(filter(None, (simulator, outcome.check.group))),
                name=outcome.check.name,
                time=f"{outcome.seconds:.3f}",
            )
            if outcome.status is Status.failed:
                failure = ET.SubElement(case, "failure", message=_printable(outcome.verdict))
                failure.text = f"“{outcome.check.sentence}”"
            elif outcome.status in _SKIPPED:
                message = f"{outcome.status.value}: {outcome.verdict}"
                ET.SubElement(case, "skipped", message=_printable(message))
    ET.indent(root)
    ET.ElementTree(root).write(path, "utf-8", xml_declaration=True)


def _printable(text: str) -> str:
    """``text`` without what XML can not hold: a server's message may have any character."""
    return "".join(c if c.isprintable() else " " for c in text)


def _by_simulator(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.simulator, []).append(outcome)
    return found


def _table(title: str, outcomes: Sequence[Outcome]) -> Table:
    table = Table(title=Text(title, "bold"), title_justify="left")
    for column in ("group", "check", "result"):
        table.add_column(column, no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("why", style="dim")
    for outcome in outcomes:
        failed = outcome.status is Status.failed
        table.add_row(
            outcome.check.group,
            Text(outcome.check.name),
            Text(outcome.status.value, _STYLES[outcome.status]),
            f"{outcome.seconds:.2f}",
            Text("see below" if failed else _short(outcome.verdict)),
        )
    return table


def _short(text: str) -> str:
    return text if len(text) <= _NOTE else text[: _NOTE - 1] + "…"
