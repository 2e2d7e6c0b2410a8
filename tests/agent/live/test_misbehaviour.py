"""Many clients that misbehave in every way the contract names, and vanish, leave nothing behind."""

import gc
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest

from agent.live.limits import Limits
from farsim.v1 import policy_pb2 as pb
from tests.agent.live.raw import (
    RawLive,
    agent,
    end,
    goodbye,
    hello,
    keep_alive,
    observe,
    resume,
    start,
)

LIMITS = Limits(
    max_message_bytes=100_000,
    max_in_flight=4,
    lease_seconds=0.2,
    idle_seconds=1.0,
    open_seconds=1.0,
    max_session_episodes=8,
)


def numbered(event: pb.LiveEvent, sequence: int) -> pb.LiveEvent:
    event.sequence = sequence
    return event


def flood(stream: RawLive) -> None:
    for _ in range(50):
        stream.send(observe(1, agent(1.0)))


MISDEEDS = {
    "nothing at all": lambda stream: None,
    "says nothing": lambda stream: stream.send(b""),
    "no event": lambda stream: stream.send(b"\xff\xff\xff"),
    "too large": lambda stream: stream.send(b"\0" * 200_000),
    "gap": lambda stream: stream.send(numbered(keep_alive(), 99)),
    "used number": lambda stream: stream.send(numbered(keep_alive(), 1)),
    "hello twice": lambda stream: stream.send(hello()),
    "resume of another": lambda stream: stream.send(resume("guessed")),
    "resume of its own": lambda stream: stream.send(resume(stream.token)),
    "unknown episode": lambda stream: stream.send(observe(77, agent(1.0))),
    "too many episodes": lambda stream: [stream.send(start(number)) for number in range(5, 20)],
    "no observation": lambda stream: stream.send(observe(1, agent(np.nan))),
    "unseen action": lambda stream: stream.send(observe(1, agent(1.0, taken=1))),
    "twice": lambda stream: stream.send(observe(1, agent(1.0), agent(1.0))),
    "ends twice": lambda stream: [stream.send(end(1)) for _ in range(2)],
    "fails the policy": lambda stream: stream.send(
        observe(1, agent(np.array([9, 0, 0, 0], np.float32)))
    ),
    "floods and reads nothing": flood,
    "goes on after goodbye": lambda stream: [stream.send(goodbye()), stream.send(keep_alive())],
    "half-closes": lambda stream: stream.end(),
    "behaves": lambda stream: stream.send(observe(1, agent(1.0))),
}
#: How it leaves.
LEAVES = ("cut", "close the connection", "wait to be thrown out")


def misbehave(address: str, number: int) -> None:
    choose = random.Random(number)
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stream = RawLive(channel)
        try:
            if choose.random() < 0.9:
                stream.hello()
                stream.start(1)
            for name in choose.sample(sorted(MISDEEDS), 3):
                MISDEEDS[name](stream)
            leaves = choose.choice(LEAVES)
            if leaves == "wait to be thrown out":
                stream.status()
            elif leaves == "cut":
                stream.cut()
        except (grpc.RpcError, EOFError):
            pass  # It was thrown out before it had done everything.
        finally:
            stream.end()


def one_wave(served, clients: int, first: int = 0) -> None:
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(misbehave, [served.server.address] * clients, range(first, first + clients)))
    started = len(served.recorder.of("started"))
    # Leases run out, silence is noticed: all that has begun comes to an end.
    served.recorder.wait("ended", started)


def settled(served) -> dict[str, int]:
    """The server's counts once its last sessions, without episodes, have run out as well."""
    done = threading.Event()
    while any(served.server.counts.values()) and not done.wait(0.05):
        pass
    return served.server.counts


def check_nothing_is_left(served, threads: int) -> None:
    assert settled(served) == {"sessions": 0, "episodes": 0, "streams": 0}
    assert served.server._service._host.batcher._waiting == 0
    names = [thread.name for thread in threading.enumerate()]
    assert sum(name in ("live", "inference") for name in names) == threads, names
    stream = served.session()
    assert stream.act(1, 1.0) == 2


def test_two_hundred_clients_leave_nothing_behind(serve):
    served = serve(limits=LIMITS)
    one_wave(served, 200)
    check_nothing_is_left(served, 2)


@pytest.mark.slow
def test_a_thousand_clients_leave_no_memory_either(serve):
    served = serve(limits=LIMITS)
    process = psutil.Process(os.getpid())
    one_wave(served, 500)
    settled(served)
    served.recorder.told.clear()
    served.policy.queries.clear()
    gc.collect()
    before, threads = process.memory_info().rss, process.num_threads()
    one_wave(served, 1000, 1000)
    check_nothing_is_left(served, 2)
    served.recorder.told.clear()
    served.policy.queries.clear()
    gc.collect()
    # Threads of gRPC's own pool and the allocator's slack come and go.
    assert process.num_threads() <= threads + 8
    assert process.memory_info().rss - before < 24 * 2**20
