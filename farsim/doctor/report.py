"""What people and programs read of a diagnosis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from farsim.doctor.findings import Cause, Diagnosis, Finding


def show(diagnoses: Sequence[Diagnosis], common: Sequence[Finding], console: Console) -> None:
    """Prints the likeliest cause and remedy first, then what was seen."""
    if len(diagnoses) > 1:
        _lines(diagnoses, console)
    for finding in common:
        _finding(finding, console)
    for diagnosis in diagnoses:
        if len(diagnoses) > 1:
            console.rule(diagnosis.address, align="left")
        _one(diagnosis, console)


def as_json(diagnoses: Sequence[Diagnosis], common: Sequence[Finding]) -> str:
    """The same for programs; causes by the names of ``Cause``."""
    return json.dumps(
        {
            "servers": [
                {**asdict(each), "findings": [_plain(finding) for finding in each.findings]}
                for each in diagnoses
            ],
            "findings": [_plain(finding) for finding in common],
        },
        indent=2,
    )


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "cause": finding.cause.name,
        "sentence": finding.cause.value,
        "evidence": finding.evidence,
        "remedy": finding.remedy,
    }


def _lines(diagnoses: Sequence[Diagnosis], console: Console) -> None:
    table = Table("server", "reached", "cause")
    for each in diagnoses:
        cause = each.findings[0].cause.value if each.findings else ""
        reached = "yes" if each.is_reached else f"no: {each.steps[-1].name}"
        table.add_row(each.address, reached, cause)
    console.print(table)


def _one(diagnosis: Diagnosis, console: Console) -> None:
    for finding in diagnosis.findings:
        _finding(finding, console)
    way = Table("step", "", "seen", title="the way to it", title_justify="left")
    for step in diagnosis.steps:
        way.add_row(step.name, "ok" if step.is_good else "no", escape(step.saw))
    console.print(way)
    if not diagnosis.shares:
        return
    whole = max(diagnosis.shares[-1].median, 1e-9)
    where = Table(
        "part", "p50 ms", "p99 ms", "share", title="where a step's time goes", title_justify="left"
    )
    for share in diagnosis.shares:
        where.add_row(
            share.part,
            f"{share.median * 1e3:.3f}",
            f"{share.p99 * 1e3:.3f}",
            f"{share.median / whole:.0%}",
        )
    console.print(where)
    for note in diagnosis.notes:
        console.print(note, highlight=False, markup=False)


def _finding(finding: Finding, console: Console) -> None:
    style = "green" if finding.cause is Cause.NOTHING else "bold red"
    console.print(
        f"[{style}]{finding.cause.value}[/] ({escape(finding.evidence)})", highlight=False
    )
    console.print(f"  remedy: {escape(finding.remedy)}", highlight=False)
