"""A training that goes on while simulators dial in and die, without a wrong transition."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from agent.training.ray_runtime import ray_runtime
from tests.agent.ledger import Ledger
from tests.agent.test_env_runner import INTEGRITY, ppo
from tests.gateways import dialling, gateway

ENVS = 10
CONNECTION = {
    "request_seconds": 30.0,
    "resume_seconds": 5.0,
    "failover_seconds": 20.0,
    "recovery_seconds": 60.0,
}


def run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"


@dataclass
class Namespace:
    """A network of its own that lets no connection in.

    Attributes:
        inside: the command that runs a program there.
        head: this machine's address, as seen from there.
        address: its own.
    """

    inside: tuple[str, ...]
    head: str
    address: str


@contextmanager
def fenced() -> Iterator[Namespace]:
    for program in ("ip", "iptables"):
        assert shutil.which(program), f"no {program} here: sudo apt-get install iproute2 iptables"
    number = os.getpid()
    name = f"farsim-{number}"
    # A network of two addresses, of those that are reserved for tests of networks.
    base = ipaddress.IPv4Address("198.18.0.0") + 4 * (number % 2**15)
    head, address = str(base + 1), str(base + 2)
    here, there = f"fh{number}", f"ft{number}"
    inside = ("ip", "netns", "exec", name)
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        run("ip", "address", "add", f"{head}/30", "dev", here)
        run("ip", "link", "set", here, "up")
        run(*inside, "ip", "address", "add", f"{address}/30", "dev", there)
        run(*inside, "ip", "link", "set", there, "up")
        rule = ("--match", "conntrack", "--ctstate", "ESTABLISHED", "--jump", "ACCEPT")
        run(*inside, "iptables", "--append", "INPUT", *rule)
        run(*inside, "iptables", "--policy", "INPUT", "DROP")
        yield Namespace(inside, head, address)
    finally:
        run("ip", "netns", "delete", name)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_runtime(cpus=2):
        yield


class Watched:
    """Lets something happen in the midst of an iteration, and books all that is sampled."""

    def __init__(self, runner: Any) -> None:
        self.ledger = Ledger()
        #: What is to happen before the step with a number.
        self.events: dict[int, Callable[[], None]] = {}
        self._steps = 0
        self._sample, self._step = runner.sample, runner.remote.step_async
        runner.sample, runner.remote.step_async = self.sample, self.step

    def soon(self, event: Callable[[], None]) -> None:
        self.events[self._steps + 5] = event

    def sample(self, **arguments: Any) -> Any:
        chunks = self._sample(**arguments)
        self.ledger.book(chunks)
        return chunks

    def step(self, *arguments: Any) -> Any:
        self._steps += 1
        self.events.pop(self._steps, lambda: None)()
        return self._step(*arguments)


@pytest.mark.slow
def test_simulators_dial_in_and_die_and_training_goes_on(cluster: None) -> None:
    """Ten licensed ones, one of them behind a fence; five die, and five others come."""
    licensed = (INTEGRITY, "--seats", "1", "--lease-seconds", "5")
    with ExitStack() as stack:
        fence = stack.enter_context(fenced())
        with pytest.raises(TimeoutError):
            socket.create_connection((fence.address, 50051), timeout=0.5)
        head = stack.enter_context(gateway("--insecure", "--away-seconds", "1", listen="0.0.0.0:0"))
        port = head.listens_at.rpartition(":")[2]

        def start() -> Any:
            return stack.enter_context(dialling(f"127.0.0.1:{port}", *licensed))

        behind = dialling(f"{fence.head}:{port}", *licensed, inside=fence.inside)
        fenced_one = stack.enter_context(behind)
        others = [start() for _ in range(9)]
        head.wait_for_seats(10)
        config = ppo(
            {
                "addresses": [head.address],
                "simulator": INTEGRITY,
                "envs_per_session": 1,
                "connection": CONNECTION,
            },
            num_envs_per_env_runner=ENVS,
            rollout_fragment_length=20,
        ).training(train_batch_size_per_learner=200, minibatch_size=100, num_epochs=1)
        algorithm = config.build_algo()
        stack.callback(algorithm.stop)
        runner: Any = algorithm.env_runner
        watched = Watched(runner)
        remote = runner.env.unwrapped

        algorithm.train()
        assert None not in remote.addresses
        watched.soon(lambda: [one.kill() for one in others[:5]])
        algorithm.train()
        algorithm.train()
        assert remote.addresses.count(None) == 5
        watched.soon(lambda: [start() for _ in range(5)])
        while None in remote.addresses:
            result = algorithm.train()
        head.wait_for_seats(10)
        result = algorithm.train()

        faults, cut = (result["env_runners"][key] for key in ("faults", "episodes_cut_by_fault"))
        assert faults == 5
        ongoing = [episode.id_ for episode in runner._ongoing_episodes]
        watched.ledger.settle(ongoing, cut, faults)
        lifetime = result["env_runners"]["num_env_steps_sampled_lifetime"]
        assert lifetime == watched.ledger.steps
        assert "a seat was taken: 1 of 1" in fenced_one.log.read_text()
        assert len({seen.key[0] for seen in watched.ledger.episodes.values()}) == 15
