"""DeepRM over gRPC from another process, beside the same simulator in process.

    python benchmarks/deeprm_over_grpc.py

Environment steps a second with compact observations and masks, actions chosen from the masks at
random, autoreset on. "one request" waits for each batch before it sends the next actions; "two
halves" keeps the environments in two requests in flight, so that one half is stepped while the
actions for the other are chosen and sent. The rounds are interleaved; medians are shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agent.local_servers import LocalServers
from agent.session import Pending, Session
from simserver import catalogue
from simserver.episodes import Episodes

_NOISE = np.random.default_rng(0).random((64, 4096, 11), dtype=np.float32)


def choose(mask: np.ndarray, turn: int) -> np.ndarray:
    """A random allowed action for each row."""
    noise = _NOISE[turn % len(_NOISE), : len(mask)]
    return np.where(mask, noise, -1).argmax(axis=1)


def in_process(num_envs: int) -> Callable[[int], None]:
    entry = catalogue.load(["deeprm"], {})["deeprm"]
    defaults = {parameter.name: parameter.default for parameter in entry.parameters}
    episodes = Episodes(lambda: entry.make(num_envs, defaults), num_envs, AutoresetMode.NEXT_STEP)
    every = np.arange(num_envs)
    mask = episodes.reset(every, every.tolist(), {}, {}).groups[0].action_masks[0]

    def play(turns: int) -> None:
        nonlocal mask
        for turn in range(turns):
            batch = episodes.step(every, [choose(mask, turn)])
            mask = batch.groups[0].action_masks[0]

    return play


def one_request(session: Session) -> Callable[[int], None]:
    mask = session.reset(seeds=list(range(session.num_envs))).groups[0].action_masks[0]

    def play(turns: int) -> None:
        nonlocal mask
        for turn in range(turns):
            mask = session.step([choose(mask, turn)]).groups[0].action_masks[0]

    return play


def two_halves(session: Session) -> Callable[[int], None]:
    every = np.arange(session.num_envs)
    halves = np.array_split(every, 2)
    mask = session.reset(seeds=every.tolist()).groups[0].action_masks[0]
    masks = [mask[half] for half in halves]

    def play(turns: int) -> None:
        pending: list[Pending] = [
            session.send_step([choose(masks[i], 0)], half) for i, half in enumerate(halves)
        ]
        for turn in range(1, turns + 1):
            for i, half in enumerate(halves):
                masks[i] = session.receive(pending[i]).groups[0].action_masks[0]
                if turn < turns:
                    pending[i] = session.send_step([choose(masks[i], turn)], half)

    return play


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--environments", default="1,16,64,256,1024")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.environments.split(",")]
    speeds: dict[tuple[str, int], list[float]] = {}
    with LocalServers(["deeprm"], 1) as servers:
        (address,) = servers.addresses
        players: dict[tuple[str, int], Callable[[int], None]] = {}
        for size in sizes:
            players["in process", size] = in_process(size)
            players["one request", size] = one_request(Session.open(address, num_envs=size))
            if size > 1:
                players["two halves", size] = two_halves(Session.open(address, num_envs=size))
        turns = {}
        for key, play in players.items():
            play(20)
            started = time.perf_counter()
            play(50)
            turns[key] = max(20, int(50 * arguments.seconds / (time.perf_counter() - started)))
        for _ in track(range(arguments.rounds), "measuring", transient=True):
            for key, play in players.items():
                started = time.perf_counter()
                play(turns[key])
                seconds = time.perf_counter() - started
                speeds.setdefault(key, []).append(turns[key] * key[1] / seconds)
    table = Table(title="DeepRM, 10 slots: environment steps/s (median), ratio to in process")
    table.add_column("environments", justify="right")
    for name in ("in process", "one request", "two halves"):
        table.add_column(name, justify="right")
    for size in sizes:
        base = speeds["in process", size]
        cells = [f"{size}", f"{statistics.median(base):,.0f}"]
        for name in ("one request", "two halves"):
            measured = speeds.get((name, size), [])
            ratios = [a / b for a, b in zip(measured, base, strict=False)]
            cells.append(
                f"{statistics.median(measured):,.0f} ({statistics.median(ratios):.2f})"
                if measured
                else "-"
            )
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
