"""RLlib gets no wrong transition, whatever happens to servers, connections and simulators.

Hundreds of faults are injected while an env runner samples; every transition that it returns is
checked by a ``Ledger``.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from agent.env_runner import RemoteEnvRunner
from tests.agent.ledger import Ledger
from tests.agent.test_env_runner import INTEGRITY, ppo
from tests.proxy import Proxy
from tests.raw_client import RawStream, opening, reset, step
from tests.servers import Serving, serving
from tests.simulators.integrity import ALONE, NUM_ACTIONS, TOGETHER

ENOUGH = 500
NUM_ENVS = 12

CONNECTION = {
    "request_seconds": 1.0,
    "heartbeat_seconds": 0.1,
    "connect_seconds": 0.5,
    "resume_seconds": 2.0,
    "failover_seconds": 1.0,
    "recovery_seconds": 30.0,
}
OPTIONS = {
    "fail_alone_rate": 0.01,
    "fail_together_rate": 0.012,
    "hang_rate": 0.0015,
    "hang_seconds": 2.0,
}
#: Faults as the env runner sees them.
KINDS = ("alone", "together", "hung", "lost")
#: A generous bound for one call: what its deadlines allow for both shards, one after the other,
#: with all attempts at a reset. Only something that hangs takes so long.
LONGEST_CALL_SECONDS = 2 * (CONNECTION["recovery_seconds"] + 5 * CONNECTION["request_seconds"])


class Host:
    """A server that can be killed and started anew on its port, behind a proxy."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.server = self._start("127.0.0.1:0")
        self.proxy = stack.enter_context(Proxy(self.server.address))

    def restart(self) -> None:
        self.server.kill()
        self.server = self._start(self.server.address)

    def _start(self, address: str) -> Serving:
        return self._stack.enter_context(
            serving(INTEGRITY, "--lease-seconds", "5", address=address)
        )


class Chaos:
    """Does one harm after the other to hosts, from a thread of its own, and counts them."""

    def __init__(self, hosts: list[Host], seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._hosts = hosts
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        harms: list[tuple[Callable[[Host], None], int]] = [
            (self._cut, 12),
            (self._delay, 4),
            (self._stall, 2),
            (self._refuse, 1),
            (self._kill, 1),
        ]
        actions, weights = zip(*harms, strict=True)
        try:
            while not self._stop.wait(self._random.uniform(0.01, 0.05)):
                (harm,) = self._random.choices(actions, weights)
                harm(self._random.choice(self._hosts))
        except BaseException as error:
            self.error = error

    def _cut(self, host: Host) -> None:
        self.done["cut"] += bool(host.proxy.cut())

    def _delay(self, host: Host) -> None:
        host.proxy.delay(self._random.uniform(0.005, 0.05))
        self._stop.wait(0.2)
        host.proxy.delay(0.0)
        self.done["delay"] += 1

    def _stall(self, host: Host) -> None:
        host.proxy.stall()
        self._stop.wait(self._random.uniform(0.1, 0.8))
        host.proxy.flow()
        self.done["stall"] += 1

    def _refuse(self, host: Host) -> None:
        host.proxy.refuse()
        self._cut(host)
        self._stop.wait(0.3)
        host.proxy.refuse(False)
        self.done["refuse"] += 1

    def _kill(self, host: Host) -> None:
        host.restart()
        self.done["kill"] += 1


class Calls:
    """Watches an env runner call environments: how long that takes, and what faults it brings."""

    def __init__(self, env: Any) -> None:
        self.faults: Counter[str] = Counter()
        self.longest = 0.0
        self._receive, self._reset_some = env.receive, env.reset_some
        env.receive, env.reset_some = self.receive, self.reset_some

    def reset_some(self, *arguments: Any) -> Any:
        return self._timed(lambda: self._reset_some(*arguments))

    def receive(self, split: int) -> Any:
        step = self._timed(lambda: self._receive(split))
        reasons = list(step.faults.values())
        self.faults["alone"] += sum(ALONE in reason for reason in reasons)
        # These are faults of all environments of a session at once, and count as one.
        others = {reason for reason in reasons if ALONE not in reason}
        self.faults["together"] += sum(TOGETHER in reason for reason in others)
        self.faults["hung"] += sum("still working on it" in reason for reason in others)
        self.faults["lost"] += sum(
            TOGETHER not in reason and "still working on it" not in reason for reason in others
        )
        return step

    def _timed(self, call: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        try:
            return call()
        finally:
            self.longest = max(self.longest, time.monotonic() - begun)


@pytest.mark.slow
def test_no_wrong_transition_in_hundreds_of_faults() -> None:
    ledger = Ledger()
    with ExitStack() as stack:
        hosts = [Host(stack) for _ in range(2)]
        config = ppo(
            {
                "addresses": [host.proxy.address for host in hosts],
                "options": OPTIONS,
                "connection": CONNECTION,
            },
            num_envs_per_env_runner=NUM_ENVS,
            rollout_fragment_length=20,
        )
        runner: Any = RemoteEnvRunner(config=config, worker_index=1, num_workers=1)
        stack.callback(runner.stop)
        calls = Calls(runner.remote)
        samples = 0
        with Chaos(hosts, seed=11) as chaos:
            # What simulators did by themselves, and what was done to them from outside; sessions
            # that were lost are a consequence, and do not count.
            # Some kinds are rare, and how many there are depends on who is faster.
            while calls.faults.total() - calls.faults[
                "lost"
            ] + chaos.done.total() < ENOUGH or not set(KINDS) <= set(+calls.faults):
                chunks = runner.sample()
                samples += 1
                assert sum(map(len, chunks)) in range(20 * NUM_ENVS, 21 * NUM_ENVS)
                ledger.book(chunks)
        assert chaos.error is None, chaos.error
        metrics = runner.get_metrics()
        ledger.settle(
            [episode.id_ for episode in runner._ongoing_episodes],
            metrics["episodes_cut_by_fault"].peek(),
            metrics["faults"].peek(),
        )
    summary = (
        f"{samples} samples, {ledger.steps} transitions of {len(ledger.episodes)} episodes; "
        f"from outside {dict(chaos.done)}, faults {dict(calls.faults)}; "
        f"the longest call took {calls.longest:.1f} s"
    )
    print(summary)
    assert metrics["num_env_steps_sampled_lifetime"].peek() == ledger.steps, summary
    assert calls.longest < LONGEST_CALL_SECONDS, summary
    for kind in ("cut", "delay", "stall", "kill"):
        assert chaos.done[kind] >= 5, summary
    for kind in KINDS:
        assert calls.faults[kind] >= 1, summary


def test_repeated_requests_are_carried_out_once() -> None:
    """A client that says everything twice gets every answer twice, and nothing happens twice."""
    rng = np.random.default_rng(5)
    with serving(INTEGRITY) as server, grpc.insecure_channel(server.address) as channel:
        stream = RawStream(channel)
        stream.ask(opening(num_environments=3))
        before = np.zeros((3, 5))
        for sequence in range(2, 103):
            actions = rng.integers(NUM_ACTIONS, size=3)
            # From the second one on steps; the very same bytes each time.
            request = reset(sequence) if sequence == 2 else step(sequence, actions)
            message = request.SerializeToString()
            first = stream.ask(message)
            for _ in range(rng.integers(1, 4)):
                assert stream.ask(message) == first
            data = first.batch.groups[0].observation.tensors[0].data
            after = np.frombuffer(data).reshape(3, 5)
            begins = after[:, 3] == 0
            np.testing.assert_array_equal(after[begins, 2], before[begins, 2] + (sequence > 2))
            np.testing.assert_array_equal(after[~begins, 3], before[~begins, 3] + 1)
            before = after
        stream.end()
        assert stream.status() is grpc.StatusCode.OK
