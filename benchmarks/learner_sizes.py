"""How many steps a second keep a learner busy, by the size of its network.

    python benchmarks/learner_sizes.py
    python benchmarks/learner_sizes.py --hidden 4096x4096 --batch 16384 --minibatch 1024

For each network PPO trains on CartPole, whose simulator costs next to nothing, with an env runner
over a local server. What the learner takes for a batch says how many steps a second it could be
fed, if they were sampled meanwhile (``--sampling sample_ahead=true``); what sampling takes, how
many such env runners that would need. Each has one core here. Networks take turns, and medians are
shown; where there is CUDA, every network is also learned there, while acting stays on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo import ppo as rllib_ppo
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agent.env_runner import RemoteEnvRunner
from agent.learning import PPOLearner
from agent.local_servers import LocalServers

SIMULATOR = "gymnasium-vector/CartPole-v1"
NETWORKS = ("64x64", "256x256", "512x512", "1024x1024", "2048x2048")
#: How RLlib's PPO gets its samples.
SAMPLE = rllib_ppo.synchronous_parallel_sample


@dataclass
class Training:
    """One network on one device.

    Attributes:
        network: its hidden layers, as "64x64".
        device: of the learner.
        algorithm: built.
        sampling: seconds of each iteration.
        learning: seconds of each iteration.
    """

    network: str
    device: str
    algorithm: Any
    sampling: list[float] = field(default_factory=list)
    learning: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        learners = self.algorithm.learner_group
        learners.update = _timed(learners.update, self.learning)

    def iterate(self) -> None:
        rllib_ppo.synchronous_parallel_sample = _timed(SAMPLE, self.sampling)  # type: ignore[assignment]
        self.algorithm.train()

    def parameters(self) -> int:
        """Of the policy and the value function."""
        module = self.algorithm.learner_group._learner.module["default_policy"]
        return sum(weight.numel() for weight in module.parameters())


def _timed(call: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        before = time.perf_counter()
        result = call(*args, **kwargs)
        seconds.append(time.perf_counter() - before)
        return result

    return timed


def training(network: str, device: str, address: str, arguments: argparse.Namespace) -> Training:
    """Built, and ready to iterate."""
    where = {"addresses": [address], "simulator": SIMULATOR}
    config = (
        PPOConfig()
        .environment("remote", env_config=where, disable_env_checking=True)
        .env_runners(
            env_runner_cls=RemoteEnvRunner,
            num_env_runners=0,
            num_envs_per_env_runner=arguments.envs,
        )
        .learners(
            learner_class=PPOLearner, num_learners=0, num_gpus_per_learner=int(device == "cuda")
        )
        .training(
            train_batch_size_per_learner=arguments.batch,
            minibatch_size=arguments.minibatch,
            num_epochs=arguments.epochs,
        )
        .rl_module(model_config={"fcnet_hiddens": [int(n) for n in network.split("x")]})
        .debugging(log_level="ERROR", seed=1)
    )
    return Training(network, device, config.build_algo())


def table(trainings: list[Training], arguments: argparse.Namespace) -> Table:
    table = Table(
        title=f"What keeps a PPO learner busy: batches of {arguments.batch:,} steps, "
        f"{arguments.epochs} epochs, minibatches of {arguments.minibatch:,}; one core each to "
        f"learn and to sample with {arguments.envs} environments"
    )
    table.add_column("hidden layers")
    table.add_column("learner")
    for name in (
        "weights",
        "s a batch",
        "steps/s it takes",
        "of a runner",
        "runners it takes",
    ):
        table.add_column(name, justify="right")
    for each in trainings:
        learning, sampling = statistics.median(each.learning), statistics.median(each.sampling)
        taken, sampled = arguments.batch / learning, arguments.batch / sampling
        table.add_row(
            each.network,
            each.device,
            f"{each.parameters():,}",
            f"{learning:.2f}",
            f"{taken:,.0f}",
            f"{sampled:,.0f}",
            f"{taken / sampled:.2f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hidden", action="append", help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--envs", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4096, help="steps of an iteration")
    parser.add_argument("--minibatch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    from agent.training.ray_runtime import quiet, ray_runtime

    quiet()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    with LocalServers(SIMULATOR, 1) as servers, ray_runtime(cpus=2):
        trainings = [
            training(network, device, servers.addresses[0], arguments)
            for device in devices
            for network in arguments.hidden or NETWORKS
        ]
        for each in trainings:
            each.iterate()  # Warms up.
            each.sampling.clear()
            each.learning.clear()
        for _ in track(range(arguments.rounds), "training", console=console, transient=True):
            for each in trainings:
                each.iterate()
        console.print(table(trainings, arguments))
        for each in trainings:
            each.algorithm.stop()


if __name__ == "__main__":
    main()
