"""The command ``farsim bench``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from agent.bench import contest, peers, report
from agent.bench.case import SIMULATORS, Baseline, Case, Simulator
from agent.bench.link import Link
from agent.bench.sweeps import SWEEPS, Sweep
from agent.training.interrupt import Interrupt
from farsim.errors import InvalidOption
from farsim.options import nearest

#: Where nobody says how wide lines may be, the table should at least be whole.
_LOG_WIDTH = 180

_DEFAULT = "overview"


def bench(
    simulator: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(SIMULATORS)}, or synthetic-<time> as synthetic-1ms. Repeatable.",
            show_default=False,
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Who steps; see --list. Repeatable.", show_default=False),
    ] = None,
    envs: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Environments in all. Repeatable.", show_default=False),
    ] = None,
    servers: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Server processes. Repeatable.", show_default=False),
    ] = None,
    link: Annotated[
        list[str] | None,
        typer.Option(
            help="A simulated link: none, 5ms, 100Mbit, or 5ms,1Gbit. Repeatable.",
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[
        str,
        typer.Option(
            help=f"A prepared comparison: {', '.join(SWEEPS)}; the options above choose from it.",
            show_default=False,
        ),
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Medians are over as many rounds.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.01, help="Of each row in each round.")] = 1.0,
    pin: Annotated[bool, typer.Option("--pin", help="Everything on one core.")] = False,
    baseline: Annotated[
        str,
        typer.Option(
            help="What ratios are to: a peer, or link=none, servers=1, envs=1, ...",
            show_default=False,
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the table as Markdown and JSON, and a plot."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show peers and sweeps.")] = False,
) -> None:
    """Compare ways to step simulators, side by side in one interleaved run.

    Without options it shows what a step of CartPole costs, in about a minute. Each row has
    processes of its own, on free loopback ports. Rows play in turn, round after round; rates,
    latencies and ratios are medians over the rounds. Environment steps are counted, not calls: a
    row that only begins an episode is none. Peers that are not installed are named.

    \b
    farsim bench
    farsim bench --sweep runner --out benchmarks
    farsim bench --sweep vector-env --pin
    farsim bench --simulator deeprm --envs 8 --envs 128 --servers 2 --peer remote --peer runner
    farsim bench --simulator synthetic-10ms --link none --link 20ms --peer remote-pipelined \\
        --baseline link=none
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    if list_:
        _list(console)
        return
    chosen = _chosen(sweep, simulator, peer, envs, servers, link)
    if baseline:
        chosen = replace(chosen, baseline=Baseline.of(baseline))
    cases, notes = _playable(chosen.cases)
    if not cases:
        raise InvalidOption(f"nothing to compare: {'; '.join(notes)}")
    if baseline and not any(chosen.baseline.holds(case) for case in cases):
        attribute = chosen.baseline.attribute
        there = ", ".join(dict.fromkeys(str(getattr(case, attribute)) for case in cases))
        raise InvalidOption(
            f"--baseline: no row has the {attribute} '{chosen.baseline.value}'; there are {there}",
            "baseline",
        )
    if pin:
        _pin()
    # Libraries that count cores would otherwise start as many threads in every process.
    os.environ["OMP_NUM_THREADS"] = "1"
    with Interrupt(lambda: None):
        rows = _play(console, cases, rounds, seconds)
    how = f"{rounds} interleaved rounds of {seconds:g} s, medians"
    where = ", pinned to one core" if pin else ""
    told = report.Report(
        f"{chosen.question[0].upper()}{chosen.question[1:]} ({how}{where})",
        rows,
        chosen.baseline,
        chosen.metric,
        notes,
        report.machine(pin),
    )
    told.show(console)
    if out is not None:
        _write(told, chosen, out, console)
    if any(row.failure for row in rows):
        raise typer.Exit(1)


def _chosen(
    sweep: str,
    simulators: Sequence[str] | None,
    peer_names: Sequence[str] | None,
    envs: Sequence[int] | None,
    servers: Sequence[int] | None,
    link_texts: Sequence[str] | None,
) -> Sweep:
    """A prepared comparison, what is chosen from it, or one that the options make."""
    links = [Link.of(text) for text in link_texts or ()]
    for name in peer_names or ():
        peers.find(name)
    for name in simulators or ():
        Simulator.of(name)
    given = any((simulators, peer_names, envs, servers, links))
    if sweep or not given:
        name = sweep or _DEFAULT
        if name not in SWEEPS:
            raise InvalidOption(
                f"no sweep '{name}'{nearest(name, SWEEPS)}; there are {', '.join(SWEEPS)}", "sweep"
            )
        prepared = SWEEPS[name]
        kept = tuple(
            case
            for case in prepared.cases
            if (not simulators or case.simulator in simulators)
            and (not peer_names or case.peer in peer_names)
            and (not envs or case.envs in envs)
            and (not servers or case.servers in servers)
            and (not links or case.link in links)
        )
        if not kept:
            raise InvalidOption(f"the sweep '{name}' has nothing of what is asked for", "sweep")
        return replace(prepared, cases=kept)
    players = list(peer_names or ("in-process", "remote", "remote-pipelined", "grpc-stream"))
    cases = tuple(
        Case(player, simulator, count, number, between)
        for simulator, count, number, between, player in itertools.product(
            simulators or ("cartpole",), envs or (32,), servers or (1,), links or (Link(),), players
        )
    )
    first = "grpc-stream" if "grpc-stream" in players else players[0]
    return Sweep("bench", "steps of simulators, side by side", cases, Baseline("peer", first))


def _playable(cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """The cases that can be played here, and why the others can not."""
    playable: list[Case] = []
    notes: list[str] = []
    for case in cases:
        found = peers.find(case.peer)
        refusal = found.refuses(case)
        if not found.is_present:
            notes.append(f"absent: {found.title} ({found.name}): {found.install}")
        elif refusal:
            notes.append(f"left out: {case}: {found.title} {refusal}")
        elif not any(_is_same(found, case, other) for other in playable):
            playable.append(case)
    return playable, list(dict.fromkeys(notes))


def _is_same(peer: peers.Peer, case: Case, other: Case) -> bool:
    """Whether two cases of a peer with a fixed number of environments come to the same."""
    return bool(peer.envs) and replace(other, envs=0) == replace(case, envs=0)


def _play(
    console: Console, cases: Sequence[Case], rounds: int, seconds: float
) -> list[contest.Row]:
    if not console.is_terminal:
        console.print(f"{len(cases)} rows, {rounds} rounds of {seconds:g} s")
        return contest.play(cases, rounds, seconds)
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with progress:
        task = progress.add_task("", total=1.0)

        def tell(what: str, done: float) -> None:
            progress.update(task, description=what, completed=done)

        return contest.play(cases, rounds, seconds, tell)


def _write(told: report.Report, chosen: Sweep, folder: Path, console: Console) -> None:
    from agent.bench import plot

    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / (chosen.name if chosen.name == "bench" else f"bench-{chosen.name}")
    stem.with_suffix(".md").write_text(told.as_markdown())
    stem.with_suffix(".json").write_text(told.as_json())
    plot.draw(told, chosen.over, stem.with_suffix(".png"))
    console.print(f"written: {stem}.md, .json, .png", highlight=False)


def _pin() -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise InvalidOption("this system does not let a process choose its core", "pin")
    # What is started from here on has the same.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _list(console: Console) -> None:
    console.print("peers", style="bold")
    for name, peer in peers.PEERS.items():
        absent = "" if peer.is_present else f"; absent: {peer.install}"
        console.print(f"  {name:22} {peer.title}{absent}", highlight=False, markup=False)
    console.print("sweeps", style="bold")
    for name, sweep in SWEEPS.items():
        console.print(f"  {name:22} {sweep.question}", highlight=False, markup=False)
