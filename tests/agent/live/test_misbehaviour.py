"""Many clients that misbehave in every way the contract names, and vanish, leave nothing behind."""

import gc
import logging
import mmap
import os
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from agent.live.limits import Limits
from farsim import spaces, tensors
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc, simulator_pb2
from tests.agent.live.linear import ACTIONS, OBSERVATIONS
from tests.agent.live.raw import (
    RawLive,
    agent,
    end,
    filled,
    goodbye,
    hello,
    keep_alive,
    observe,
    resume,
    start,
    value,
)

LIMITS = Limits(
    max_message_bytes=100_000,
    max_in_flight=4,
    lease_seconds=0.2,
    idle_seconds=1.0,
    open_seconds=1.0,
    max_session_episodes=8,
    max_sessions=48,
    max_agents=4,
    max_rows=8,
)
TOKEN = "sesame"


def numbered(event: pb.LiveEvent, sequence: int) -> pb.LiveEvent:
    event.sequence = sequence
    return event


def flood(stream: RawLive) -> None:
    for _ in range(50):
        stream.send(observe(1, agent(1.0)))


def again(stream: RawLive) -> None:
    event = stream.send(keep_alive())
    stream.send(event)


def elsewhere(stream: RawLive) -> None:
    """Its session is resumed by another of its streams, as if this one were dead."""
    other = RawLive(stream.channel, 2, AUTHORISED)
    try:
        other.send(resume(stream.token))
        other.receive()
    finally:
        other.cut()


def over(stream: RawLive) -> None:
    stream.send(observe(1, agent(1.0, terminated=True)))
    stream.send(observe(1, agent(1.0)))


AUTHORISED = [("authorization", f"Bearer {TOKEN}")]
SHORT = agent(1.0)
SHORT.observation.tensors[0].data = b"short"
NO_TENSORS = pb.AgentObservation()
NO_TENSORS.observation.SetInParent()
OTHER_SPACES = simulator_pb2.Group(
    name="all",
    agents=["agent"],
    observation_space=spaces.to_proto(ACTIONS),
    action_space=spaces.to_proto(ACTIONS),
)

#: How it opens a session, if it does so wrongly.
OPENINGS = {
    "another version of the contract": {"protocol_version": "99.0"},
    "a mode that is none": {"mode": 77},
    "other spaces": {"groups": [OTHER_SPACES]},
    "an agent in two groups": {"groups": [OTHER_SPACES, OTHER_SPACES]},
    "a version that is not served": {"policy_version": 77},
    "a lease that is none": {"lease_seconds": -1.0},
    "shadow, and then no actions": {"mode": pb.LIVE_MODE_SHADOW},
    "collect": {"mode": pb.LIVE_MODE_COLLECT},
}
MISDEEDS = {
    "nothing at all": lambda stream: None,
    "says nothing": lambda stream: stream.send(b""),
    "no event": lambda stream: stream.send(b"\xff\xff\xff"),
    "too large": lambda stream: stream.send(b"\0" * 200_000),
    "gap": lambda stream: stream.send(numbered(keep_alive(), 99)),
    "used number": lambda stream: stream.send(numbered(keep_alive(), 1)),
    "again": again,
    "hello twice": lambda stream: stream.send(hello()),
    "resume of another": lambda stream: stream.send(resume("guessed")),
    "resume of its own": lambda stream: stream.send(resume(stream.token)),
    "resume elsewhere": elsewhere,
    "unknown episode": lambda stream: stream.send(observe(77, agent(1.0))),
    "end of an unknown episode": lambda stream: stream.send(end(77)),
    "too many episodes": lambda stream: [stream.send(start(number)) for number in range(5, 20)],
    "used episode": lambda stream: stream.send(start(1)),
    "too many agents": lambda stream: stream.send(
        observe(1, *(agent(1.0, name=str(number)) for number in range(9)))
    ),
    "no observation": lambda stream: stream.send(observe(1, agent(np.nan))),
    "no bytes": lambda stream: stream.send(observe(1, SHORT)),
    "no tensors": lambda stream: stream.send(observe(1, NO_TENSORS)),
    "masks of none": lambda stream: stream.send(
        observe(1, agent(1.0, action_masks=[tensors.pack(np.zeros((1, 3), np.bool_))]))
    ),
    "no number for a reward": lambda stream: stream.send(observe(1, agent(1.0, reward=np.inf))),
    "unseen action": lambda stream: stream.send(observe(1, agent(1.0, taken=1))),
    "logged action of none": lambda stream: stream.send(observe(1, agent(1.0, logged=77))),
    "logged at the end": lambda stream: stream.send(
        observe(1, agent(1.0, logged=1, terminated=True))
    ),
    "twice": lambda stream: stream.send(observe(1, agent(1.0), agent(1.0))),
    "ends twice": lambda stream: [stream.send(end(1)) for _ in range(2)],
    "goes on when it is over": over,
    "fails the policy": lambda stream: stream.send(
        observe(1, agent(np.array([9, 0, 0, 0], np.float32)))
    ),
    "goes on without a reply": flood,
    "goes on after goodbye": lambda stream: [stream.send(goodbye()), stream.send(keep_alive())],
    "half-closes": lambda stream: stream.end(),
    "behaves": lambda stream: stream.send(observe(1, agent(1.0))),
}
SEEN = value(OBSERVATIONS, filled(OBSERVATIONS, 1.0))
#: Calls of ``Act`` and ``Describe`` that are wrong.
CALLS = {
    "unknown policy": pb.ActRequest(policy="nobody", observation=SEEN),
    "unknown version": pb.ActRequest(policy_version=77, observation=SEEN),
    "another digest": pb.ActRequest(digest="another", observation=SEEN),
    "other rows": pb.ActRequest(rows=3, observation=SEEN),
    "too many rows": pb.ActRequest(rows=2**31, observation=SEEN),
    "no observation": pb.ActRequest(),
    "state of none": pb.ActRequest(observation=SEEN, state=[b"strange"]),
    "another version of the contract": pb.DescribePoliciesRequest(protocol_version="99.0"),
}
#: How it leaves.
LEAVES = ("cut", "close the connection", "wait to be thrown out")


def misbehave(address: str, number: int) -> None:
    choose = random.Random(number)
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call(channel, choose)
        authorised = AUTHORISED if choose.random() < 0.95 else None
        stream = RawLive(channel, metadata=authorised)
        try:
            if choose.random() < 0.9:
                wrong = OPENINGS[choose.choice(sorted(OPENINGS))]
                reply = stream.ask(hello(**(wrong if choose.random() < 0.3 else {})))
                stream.token = reply.welcome.session_token
                stream.send(start(1))
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


def call(channel: grpc.Channel, choose: random.Random) -> None:
    request = CALLS[choose.choice(sorted(CALLS))]
    stub = policy_pb2_grpc.PolicyStub(channel)
    ask = stub.Act if isinstance(request, pb.ActRequest) else stub.Describe
    pending = ask.future(request, metadata=AUTHORISED if choose.random() < 0.9 else None)
    if choose.random() < 0.5:
        pending.cancel()  # It does not wait for the answer.
    else:
        pending.exception()


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
    stream = served.stream(metadata=AUTHORISED)
    stream.hello()
    stream.start(1)
    assert stream.act(1, 1.0) == 2


def test_two_hundred_clients_leave_nothing_behind(serve):
    served = serve(limits=LIMITS, token=TOKEN)
    one_wave(served, 200)
    check_nothing_is_left(served, 2)


def native_threads() -> tuple[int, int]:
    """Threads of the process, those of gRPC's pool apart, and how many are in that pool.

    The pool takes in another thread when all of its own are busy for a moment, and lets it go when
    it has been idle for long: how many there are says how busy the machine was.
    """
    names = [name.read_text().strip() for name in Path(f"/proc/{os.getpid()}/task").glob("*/comm")]
    pool = names.count("event_engine")
    return len(names) - pool, pool


def kept(served) -> tuple[int, int, int]:
    """Threads of the process, its Python objects, and those of the server's own classes."""
    settled(served)
    served.recorder.told.clear()
    served.policy.queries.clear()
    served.policy.batches.clear()
    gc.collect()
    own = sum(str(type(one).__module__).startswith("agent.live.") for one in gc.get_objects())
    return native_threads()[0], sys.getallocatedblocks(), own


@pytest.mark.slow
def test_a_thousand_clients_leave_no_memory_either(serve, caplog):
    # Pytest would keep what is logged.
    caplog.set_level(logging.CRITICAL, "agent.live")
    served = serve(limits=LIMITS, token=TOKEN)
    # gRPC starts its pool of threads, and allocators take what they then keep, as they are needed
    # for the first time: for as many clients at a time as there will be later, of the same kinds.
    one_wave(served, 1000)
    running, blocks, own = kept(served)
    memory = psutil.Process().memory_info().rss
    one_wave(served, 1000, 1000)
    after = kept(served)
    assert after[0] == running
    assert native_threads()[1] < 32
    # What locals of sleeping tasks still name: some of one session, not of a thousand.
    assert abs(after[2] - own) < 50
    assert after[1] - blocks < 1000
    # Two pages for each, the clients' own side in this process included; it stops growing at all
    # after some thousands.
    assert psutil.Process().memory_info().rss - memory < 2000 * mmap.PAGESIZE
    check_nothing_is_left(served, 2)
