"""PPO on DeepRM, end to end: remote simulators beside RLlib's stock runner with one in process.

    python benchmarks/training.py

Four trainings of the same network with the same settings, those of ``farsim train deeprm``:

* "RLlib": its own env runner, on a Gymnasium vector environment around the same batch simulator in
  the same process, and its own learner;
* "farsim, RLlib's learner": ``RemoteEnvRunner`` over local server processes;
* "farsim": the same with ``PPOLearner``;
* "farsim, ahead": the same with an env runner in a process of its own, which samples while the
  learner works (``--sampling sample_ahead=true``).

Iterations take turns, and all processes share the same cores; medians are shown, and of each round
the ratio to "RLlib". "Sampling" is what the learner waits for it. CPU seconds are those of an
iteration, with those of an env runner's own process. What is sampled ahead is waited for within the
iteration that began it, so that it costs the others nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from ray.rllib.algorithms.ppo import ppo
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agent.local_servers import LocalServers
from simserver import catalogue
from simserver.episodes import Episodes
from simserver.simulator import Batch

SIMULATOR = "deeprm"
#: How RLlib's PPO gets its samples.
SAMPLE = ppo.synchronous_parallel_sample


class InProcess(VectorEnv[Any, Any, Any]):
    """DeepRM without a server, as RLlib's own env runner takes it.

    Observations carry the action mask; infos come with the end of an episode.
    """

    def __init__(self, num_envs: int, space: gym.Space[Any], seed: int) -> None:
        entry = catalogue.load([SIMULATOR], {})[SIMULATOR]
        options = {parameter.name: parameter.default for parameter in entry.parameters}
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self._every = np.arange(num_envs)
        self._seed = seed
        self._episodes = Episodes(
            lambda: entry.make(num_envs, options), num_envs, AutoresetMode.NEXT_STEP
        )
        self.single_observation_space = space
        self.single_action_space = self._episodes.groups[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        batch = self._episodes.reset(self._every, (self._every + self._seed).tolist(), {}, {})
        return _observation(batch), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        batch = self._episodes.step(self._every, [np.asarray(actions)])
        group = batch.groups[0]
        infos: dict[str, Any] = {}
        for name, info in group.infos.items():
            if info.rows is not None and len(info.rows) and np.ndim(info.values) == 1:
                values, there = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
                values[info.rows], there[info.rows] = info.values, True
                infos |= {name: values, f"_{name}": there}
        return _observation(batch), group.reward, group.terminated, group.truncated, infos


def _observation(batch: Batch) -> dict[str, Any]:
    group = batch.groups[0]
    mask = group.action_masks[0].astype(np.float32)
    return {"observations": np.array(group.observation), "action_mask": mask}


@dataclass
class Contender:
    """A training.

    Attributes:
        name: for the table.
        algorithm: built.
        servers: process ids whose CPU time counts.
        runners: process ids of env runners.
        sampling: seconds and CPU seconds of each iteration; ``learning`` as well.
        speeds: environment steps per second of each iteration.
        served: CPU seconds of the servers in each iteration.
    """

    name: str
    algorithm: Any
    servers: Sequence[int] = ()
    runners: Sequence[int] = ()
    sampling: list[tuple[float, float]] = field(default_factory=list)
    learning: list[tuple[float, float]] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        learners = self.algorithm.learner_group
        learners.update = _timed(learners.update, self.learning)
        runners = self.algorithm.env_runner_group
        if runners.num_remote_workers():
            self.runners = runners.foreach_env_runner(
                lambda runner: os.getpid(), local_env_runner=False
            )
        self._sampled = 0

    def iterate(self) -> None:
        before, cpu = time.perf_counter(), _cpu(self.servers)
        of_runners = _cpu(self.runners)
        ppo.synchronous_parallel_sample = _timed(SAMPLE, self.sampling)  # type: ignore[assignment]
        result = self.algorithm.train()
        if self.runners:
            self.algorithm.env_runner_group.foreach_env_runner(
                lambda runner: runner.settle(), local_env_runner=False
            )
        seconds = time.perf_counter() - before
        waited, spent = self.sampling[-1]
        self.sampling[-1] = waited, spent + _cpu(self.runners) - of_runners
        sampled = int(result["env_runners"]["num_env_steps_sampled_lifetime"])
        self.speeds.append((sampled - self._sampled) / seconds)
        self._sampled = sampled
        self.served.append(_cpu(self.servers) - cpu)

    def forget(self) -> None:
        for values in (self.sampling, self.learning, self.speeds, self.served):
            values.clear()


def _cpu(pids: Sequence[int]) -> float:
    """CPU seconds of processes so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


def _timed(call: Callable[..., Any], seconds: list[tuple[float, float]]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        before, cpu = time.perf_counter(), time.process_time()
        result = call(*args, **kwargs)
        seconds.append((time.perf_counter() - before, time.process_time() - cpu))
        return result

    return timed


def configurations(
    addresses: Sequence[str], settings: dict[str, dict[str, Any]], splits: int = 1
) -> dict[str, Any]:
    """RLlib's configurations by name."""
    from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
    from ray.tune.registry import register_env

    from agent.training.algorithm import Simulators, look_at, plan
    from agent.training.configuration import Setting
    from agent.training.presets import preset

    simulators = Simulators(list(addresses), SIMULATOR)
    layers = [
        {
            section: {name: Setting(value, "here") for name, value in members.items()}
            for section, members in layer.items()
        }
        for layer in (preset(SIMULATOR, "PPO"), settings, {"debugging": {"seed": 1}})
    ]
    planned = plan("PPO", simulators, look_at(simulators), layers)
    farsim = planned.config
    farsim.environment(env_config={**farsim.env_config, "splits": splits})
    slower = farsim.copy(copy_frozen=False).learners(learner_class=PPOTorchLearner)
    ahead = farsim.copy(copy_frozen=False).env_runners(num_env_runners=1)
    ahead.environment(env_config={**farsim.env_config, "sample_ahead": True})
    stock = slower.copy(copy_frozen=False)
    space = planned.observation_space
    register_env("in-process", lambda context: InProcess(context["num_envs"], space, 1))
    stock.environment(env="in-process", env_config={})
    stock.env_runners(
        env_runner_cls=SingleAgentEnvRunner,
        gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
    )
    return {
        "RLlib": stock,
        "farsim, RLlib's learner": slower,
        "farsim": farsim,
        "farsim, ahead": ahead,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--servers", type=int, default=2, help="processes")
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--splits", type=int, default=1, help="as in env_config")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8192, help="steps of an iteration")
    parser.add_argument("--minibatch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {
        "training": {
            "train_batch_size_per_learner": arguments.batch,
            "minibatch_size": arguments.minibatch,
            "num_epochs": arguments.epochs,
        },
        "env_runners": {"num_envs_per_env_runner": arguments.envs},
    }
    console = Console()
    from agent.training.ray_runtime import quiet, ray_runtime

    quiet()
    with LocalServers(SIMULATOR, arguments.servers) as servers, ray_runtime(cpus=4):
        pids = _tree(servers.pids)
        contenders = [
            Contender(name, config.build_algo(), pids if name.startswith("farsim") else ())
            for name, config in configurations(
                servers.addresses, settings, arguments.splits
            ).items()
        ]
        for _ in range(2):
            for contender in contenders:
                contender.iterate()  # Warms up.
        for contender in contenders:
            contender.forget()
        for _ in track(range(arguments.rounds), "training", console=console, transient=True):
            for contender in contenders:
                contender.iterate()
        console.print(table(contenders, arguments))
        for contender in contenders:
            contender.algorithm.stop()


def _tree(pids: Sequence[int]) -> list[int]:
    """Processes and their children."""
    children = [psutil.Process(pid).children(recursive=True) for pid in pids]
    return [*pids, *(child.pid for some in children for child in some)]


def table(contenders: Sequence[Contender], arguments: argparse.Namespace) -> Table:
    table = Table(
        title=f"PPO on DeepRM: {arguments.envs} environments, {arguments.servers} servers, batches "
        f"of {arguments.batch}, {arguments.epochs} epochs, minibatches of {arguments.minibatch}, "
        f"{os.cpu_count()} cores"
    )
    table.add_column("")
    for name in ("steps/s", "ratio", "sampling s", "learner s", "their CPU s", "servers' CPU s"):
        table.add_column(name, justify="right")
    base = contenders[0]
    for contender in contenders:
        ratios = [a / b for a, b in zip(contender.speeds, base.speeds, strict=True)]
        (sampling, sampling_cpu), (learning, learning_cpu) = (
            [statistics.median(column) for column in zip(*parts, strict=True)]
            for parts in (contender.sampling, contender.learning)
        )
        table.add_row(
            contender.name,
            f"{statistics.median(contender.speeds):,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{sampling:.2f}",
            f"{learning:.2f}",
            f"{sampling_cpu:.2f} + {learning_cpu:.2f}",
            f"{statistics.median(contender.served):.2f}",
        )
    return table


if __name__ == "__main__":
    main()
