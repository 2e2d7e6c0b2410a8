"""How fast Particle steps many worlds, beside mpe2's parallel environment where it is installed.

    pip install mpe2==1.1.1   # for the comparison
    python benchmarks/particle_batch.py

All ways play whole episodes with random actions, resets included; actions are drawn outside the
time measured, which is CPU time. They take turns within one run; the table gives the median of the
rounds, in environment steps: one step of all agents of one world.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from simserver.catalogue import BUILT_IN, load
from simserver.sims.particle import Particle

NAMES = [name for name in BUILT_IN if name.startswith("particle/")]
VERSIONS = {"simple_speaker_listener": "v4"}
SIZES = (1, 64, 1024)
#: At how many worlds the ratio to mpe2 is given.
COMPARED = 64

#: Plays one round of episodes, and says how many environment steps and seconds that took.
Player = Callable[[], tuple[int, float]]


def batched(name: str, mode: str, num_envs: int, seconds: float) -> Player:
    """Episodes of ``num_envs`` worlds, all at once."""
    entry = load([name], {"action_mode": mode})[name]
    sim = entry.make(num_envs, {p.name: p.default for p in entry.parameters})
    assert isinstance(sim, Particle)
    envs = np.arange(num_envs)
    length = sim.max_episode_steps
    random = np.random.default_rng(0)

    def draw() -> list[np.ndarray]:
        actions = []
        for group in sim.groups:
            rows = num_envs * len(group.agents)
            if mode == "continuous":
                actions.append(random.random((rows, *group.action_space.shape), np.float32))
            else:
                actions.append(random.integers(group.action_space.n, size=rows))
        return actions

    def play() -> tuple[int, float]:
        spent, steps = 0.0, 0
        while spent < seconds:
            actions = [draw() for _ in range(length)]
            begun = time.process_time()
            sim.reset(envs, None, {})
            for action in actions:
                sim.step(envs, action)
            spent += time.process_time() - begun
            steps += length * num_envs
        return steps, spent

    return play


def reference(name: str, mode: str, seconds: float) -> Player | None:
    """Episodes of mpe2's parallel environment; None if mpe2 is not installed."""
    scenario = name.removeprefix("particle/")
    module = f"{scenario}_{VERSIONS.get(scenario, 'v3')}"
    try:
        env = importlib.import_module(f"mpe2.{module}").parallel_env(
            continuous_actions=mode == "continuous"
        )
    except ModuleNotFoundError:
        return None
    env.reset(seed=0)

    def play() -> tuple[int, float]:
        spent, steps = 0.0, 0
        while spent < seconds:
            agents = env.possible_agents
            actions = [{a: env.action_space(a).sample() for a in agents} for _ in range(25)]
            begun = time.process_time()
            env.reset()
            for action in actions:
                env.step(action)
            spent += time.process_time() - begun
            steps += len(actions)
        return steps, spent

    return play


def measure(name: str, mode: str, rounds: int, seconds: float) -> tuple[list[float], float]:
    """Medians over the rounds: steps a second for each of ``SIZES`` and mpe2, and the ratio.

    What needs mpe2 is nan without it.
    """
    players = [batched(name, mode, size, seconds) for size in SIZES]
    other = reference(name, mode, seconds)
    if other:
        players.append(other)
    for play in players:
        play()
    rates = [
        [steps / spent for steps, spent in (play() for play in players)] for _ in range(rounds)
    ]
    medians = [statistics.median(column) for column in zip(*rates, strict=True)]
    if not other:
        return [*medians, float("nan")], float("nan")
    compared = SIZES.index(COMPARED)
    return medians, statistics.median(row[compared] / row[-1] for row in rates)


def short(name: str) -> str:
    return name.removeprefix("particle/").removeprefix("simple_")


def thousands(rate: float) -> str:
    if np.isnan(rate):
        return "absent"
    return f"{rate / 1000:,.0f}" if rate >= 100_000 else f"{rate / 1000:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="turns that each way takes")
    parser.add_argument("--seconds", type=float, default=0.2, help="least length of a turn")
    parser.add_argument("--mode", choices=("discrete", "continuous", "both"), default="both")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    arguments = parser.parse_args()
    modes = ("discrete", "continuous") if arguments.mode == "both" else (arguments.mode,)
    console = Console()
    table = Table(
        title="Particle: thousands of environment steps per CPU second, by number of worlds"
    )

    table.add_column("scenario", no_wrap=True)
    table.add_column("actions", no_wrap=True)
    for size in SIZES:
        table.add_column(f"{size:,}", justify="right", no_wrap=True)
    table.add_column("mpe2", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    cases = [(name, mode) for name in NAMES if arguments.only in name for mode in modes]
    absent = False
    for name, mode in track(cases, "measuring", transient=True, console=console):
        rates, ratio = measure(name, mode, arguments.rounds, arguments.seconds)
        absent |= bool(np.isnan(ratio))
        cells = [thousands(rate) for rate in rates]
        cells.append(f"{ratio:.0f}" if ratio == ratio else "")
        table.add_row(short(name), mode, *cells)
    console.print(table)
    console.print(f"ratio: {COMPARED} worlds to mpe2's one")
    if absent:
        console.print("mpe2 is not installed: pip install mpe2==1.1.1 for the comparison")


if __name__ == "__main__":
    main()
