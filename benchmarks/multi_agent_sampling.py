"""Multi-agent sampling with a policy: over gRPC beside RLlib's own env runner on mpe2.

    python benchmarks/multi_agent_sampling.py

Environment steps of simple_spread (three agents, one shared 64×64 policy, discrete actions), from
observation to RLlib episodes. "remote" is ``RemoteMultiAgentEnvRunner`` against ``farsim serve`` in
another process; "RLlib" is ``MultiAgentEnvRunner`` on mpe2's parallel environment in its own
process, once as RLlib makes them and without its environment check. CPU seconds of "remote" are
those of the env runner and of the server together. Rounds are interleaved; medians are shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agent.local_servers import LocalServers

SIMULATOR = "particle/simple_spread"


@dataclass
class Contender:
    """Someone who samples.

    Attributes:
        name: for the table.
        runner: an env runner.
        servers: process ids whose CPU time counts.
    """

    name: str
    runner: Any
    servers: list[int] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    per_cpu_second: list[float] = field(default_factory=list)

    def sample(self, steps: int) -> None:
        before, cpu = time.perf_counter(), self._cpu()
        episodes = self.runner.sample(num_timesteps=steps)
        self.runner.get_metrics()
        done = sum(len(episode) for episode in episodes)
        self.per_second.append(done / (time.perf_counter() - before))
        self.per_cpu_second.append(done / (self._cpu() - cpu))

    def _cpu(self) -> float:
        served = [psutil.Process(pid).cpu_times() for pid in self.servers]
        return time.process_time() + sum(times.user + times.system for times in served)


def remote(address: str, envs: int) -> Any:
    from agent.multi_agent.env_runner import RemoteMultiAgentEnvRunner

    config = ppo(envs).environment(
        "remote",
        env_config={"addresses": address, "simulator": SIMULATOR},
        disable_env_checking=True,
    )
    return RemoteMultiAgentEnvRunner(config=config)


def rllib(envs: int) -> Any:
    from mpe2 import simple_spread_v3
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
    from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
    from ray.tune.registry import register_env

    register_env("mpe2", lambda _: ParallelPettingZooEnv(simple_spread_v3.parallel_env()))
    config = ppo(envs).environment("mpe2", disable_env_checking=True)
    return MultiAgentEnvRunner(config=config)


def ppo(envs: int) -> Any:
    from ray.rllib.algorithms.ppo import PPOConfig

    return (
        PPOConfig()
        .env_runners(num_env_runners=0, num_envs_per_env_runner=envs)
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, episode, **_: "shared")
        .rl_module(model_config={"fcnet_hiddens": [64, 64]})
        .debugging(log_level="ERROR", seed=1)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=2, help="of each environment and round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    steps = arguments.envs * 25 * arguments.episodes
    with LocalServers(SIMULATOR, 1) as servers:
        (address,) = servers.addresses
        own = psutil.Process().children(recursive=True)
        contenders = [
            Contender("RLlib, mpe2", rllib(arguments.envs)),
            Contender("remote", remote(address, arguments.envs), [child.pid for child in own]),
        ]
        for contender in contenders:
            contender.runner.sample(num_timesteps=steps)  # Warms up.
        for _ in track(range(arguments.rounds), "sampling", console=console, transient=True):
            for contender in contenders:
                contender.sample(steps)
        for contender in contenders:
            contender.runner.stop()
    console.print(table(contenders, arguments.envs))


def table(contenders: list[Contender], envs: int) -> Table:
    shown = Table(title=f"simple_spread, {envs} environments: environment steps")
    shown.add_column("env runner")
    columns: list[tuple[str, Callable[[Contender], list[float]]]] = [
        ("a second", lambda c: c.per_second),
        ("a CPU second", lambda c: c.per_cpu_second),
    ]
    for title, _ in columns:
        shown.add_column(title, justify="right")
        shown.add_column("ratio", justify="right")
    for contender in contenders:
        cells = []
        for _, of in columns:
            value, base = statistics.median(of(contender)), statistics.median(of(contenders[0]))
            cells += [f"{value:,.0f}", f"{value / base:.1f}"]
        shown.add_row(contender.name, *cells)
    return shown


if __name__ == "__main__":
    main()
