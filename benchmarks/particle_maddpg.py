"""How well MADDPG learns a Particle scenario over gRPC, and how fast.

    python benchmarks/particle_maddpg.py [--scenario simple_spread] [--modes discrete continuous]
        [--seeds 0] [--until -33] [--steps 600000] [--csv curves.csv]

A server process steps 64 worlds; this one samples, learns and evaluates, with one PyTorch thread
and the defaults of ``MADDPGConfig``; the agents of a group share a policy. Shown is the return of
greedy episodes on seeds that training has never seen, summed over the agents, with its standard
error: with ``simple_spread`` and three agents, uniformly random actions give about -79 (discrete)
and -75 (continuous), each agent going to its nearest landmark about -51, and the original
package's -400 is -29.2 here.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agent.local_servers import LocalServers
from agent.training.ray_runtime import ray_runtime


@dataclass
class Point:
    """One point of a learning curve; ``seconds`` without evaluation."""

    mode: str
    seed: int
    env_steps: int
    return_mean: float
    standard_error: float
    seconds: float
    cpu_seconds: float


def configured(address: str, scenario: str, mode: str, seed: int) -> Any:
    from agent.maddpg import MADDPGConfig
    from agent.multi_agent.env_runner import RemoteMultiAgentEnvRunner
    from agent.session import Session

    simulator = f"particle/{scenario}"
    with Session.open(address, simulator, 1, {"action_mode": mode}) as session:
        groups = {agent: group.name for group in session.groups for agent in group.agents}
    config = MADDPGConfig().environment(
        simulator,
        env_config={
            "addresses": address,
            "simulator": simulator,
            "options": {"action_mode": mode},
        },
        disable_env_checking=True,
    )
    config.env_runners(
        env_runner_cls=RemoteMultiAgentEnvRunner, num_env_runners=0, num_envs_per_env_runner=64
    )
    config.multi_agent(
        policies=set(groups.values()), policy_mapping_fn=lambda agent, *_, **__: groups[agent]
    )
    return config.debugging(seed=seed, log_level="ERROR")


def greedy_returns(algorithm: Any, episodes: int) -> np.ndarray:
    from agent.multi_agent.env_runner import RemoteMultiAgentEnvRunner

    config = algorithm.config.copy(copy_frozen=False)
    config.in_evaluation = True
    runner = RemoteMultiAgentEnvRunner(config=config, worker_index=0)
    try:
        runner.set_state({"rl_module": algorithm.env_runner.module.get_state()})
        played = runner.sample(num_episodes=episodes, explore=False)
        return np.array([episode.get_return() for episode in played])
    finally:
        runner.stop()


def curve(arguments: argparse.Namespace, address: str, mode: str, seed: int) -> Iterator[Point]:
    algorithm = configured(address, arguments.scenario, mode, seed).build_algo()
    seconds = cpu_seconds = 0.0
    due = 0
    try:
        while True:
            begun, cpu = time.perf_counter(), time.process_time()
            steps = int(algorithm.train()["num_env_steps_sampled_lifetime"])
            seconds += time.perf_counter() - begun
            cpu_seconds += time.process_time() - cpu
            if steps < due:
                continue
            due += arguments.every
            returns = greedy_returns(algorithm, arguments.episodes)
            mean, error = float(returns.mean()), float(returns.std() / math.sqrt(len(returns)))
            yield Point(mode, seed, steps, mean, error, seconds, cpu_seconds)
            if mean >= arguments.until or steps >= arguments.steps:
                return
    finally:
        algorithm.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="simple_spread")
    parser.add_argument("--modes", nargs="+", default=["discrete", "continuous"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=600_000, help="environment steps at most")
    parser.add_argument("--until", type=float, default=-33.0, help="stop at this return")
    parser.add_argument("--every", type=int, default=50_000, help="steps between evaluations")
    parser.add_argument("--episodes", type=int, default=256, help="in an evaluation")
    parser.add_argument("--csv", type=Path, help="also write the points there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    points = []
    with LocalServers(f"particle/{arguments.scenario}") as servers, ray_runtime(cpus=1):
        for mode in arguments.modes:
            for seed in arguments.seeds:
                for point in curve(arguments, servers.addresses[0], mode, seed):
                    print(
                        f"{mode} seed {seed}: {point.env_steps} steps, "
                        f"{point.return_mean:.2f} ± {point.standard_error:.2f}",
                        flush=True,
                    )
                    points.append(point)
    table = Table(title=f"MADDPG on {arguments.scenario}: greedy return of all agents")
    for column in fields(Point):
        table.add_column(column.name.replace("_", " "), justify="right")
    for point in points:
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in astuple(point)))
    Console().print(table)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([column.name for column in fields(Point)])
            writer.writerows(map(astuple, points))


if __name__ == "__main__":
    main()
