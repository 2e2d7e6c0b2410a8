"""Every cause of slow steps that ``farsim doctor`` names, produced on purpose and large."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from farsim import spaces, tensors
from farsim.channel import ConnectionOptions
from farsim.doctor.examination import Wishes, examine
from farsim.doctor.findings import Cause, Diagnosis
from farsim.v1 import policy_pb2, policy_pb2_grpc, tensor_pb2
from farsim.v1 import simulator_pb2 as pb
from tests.proxy import Proxy
from tests.raw_client import RawStream, opening, reset, step
from tests.servers import Serving, serving

AILING = "tests.simulators.ailing:Ailing"
PARTS = {"simulator", "codec", "network", "queue", "step"}


def wishes(simulator: str = AILING, envs: int = 4, **options: Any) -> Wishes:
    return Wishes(ConnectionOptions(), simulator, envs, options, seconds=1.0)


def diagnose(address: str, wanted: Wishes) -> Diagnosis:
    (diagnosis,), _ = examine([address], wanted)
    assert diagnosis.is_reached, diagnosis.steps
    return diagnosis


def first(address: str, wanted: Wishes) -> Cause:
    return diagnose(address, wanted).findings[0].cause


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(AILING, "adder", "deeprm") as server:
        yield server


def test_a_slow_simulator(server):
    diagnosis = diagnose(server.address, wishes(sleep=0.05))
    assert diagnosis.findings[0].cause is Cause.SLOW_SIMULATOR
    assert {share.part for share in diagnosis.shares} == PARTS
    assert diagnosis.shares[0].part == "simulator"


def test_a_long_link(server):
    with Proxy(server.address) as proxy:
        proxy.delay(0.03)
        diagnosis = diagnose(proxy.address, wishes("adder"))
    assert diagnosis.findings[0].cause is Cause.LATENCY
    assert diagnosis.shares[0].part == "network"


def test_large_messages_on_a_slow_link(server):
    with Proxy(server.address) as proxy:
        # At most 64 KiB pass every 5 ms.
        proxy.delay(0.005)
        assert first(proxy.address, wishes(bytes=500_000)) is Cause.LARGE_MESSAGES


def test_values_that_take_long_to_pack(server):
    assert first(server.address, wishes(leaves=600)) is Cause.CODEC


def test_small_batches(server):
    assert first(server.address, wishes("adder", envs=1)) is Cause.SMALL_BATCHES


def test_nothing_stands_out(server):
    assert first(server.address, wishes("adder", envs=2000)) is Cause.NOTHING


def test_a_process_with_several_busy_sessions(server):
    stop, ready = threading.Event(), threading.Barrier(5)

    def keep_busy() -> None:
        with grpc.insecure_channel(server.address) as channel:
            stream = RawStream(channel)
            spin = tensor_pb2.Value(tensors=[tensors.pack(np.array([0.3], np.float32))])
            options = pb.Options(values={"spin": spin})
            assert stream.ask(opening(AILING, 1, options=options)).opened.session_token
            stream.ask(reset(2))
            ready.wait(60)
            sequence = 2
            while not stop.is_set():
                sequence += 1
                assert stream.ask(step(sequence, np.zeros(1, np.int64))).HasField("batch")
            stream.cut()

    with ThreadPoolExecutor(4) as pool:
        hogs = [pool.submit(keep_busy) for _ in range(4)]
        try:
            ready.wait(60)
            found = first(server.address, wishes("adder"))
        finally:
            stop.set()
        for hog in hogs:
            hog.result(60)
    assert found is Cause.BUSY


@contextmanager
def on_one_core() -> Iterator[None]:
    """Processes that are started meanwhile share one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def test_more_servers_than_cores():
    with on_one_core(), serving(AILING, "--workers", "3") as servers:
        diagnoses, common = examine(servers.addresses, wishes(spin=0.03))
    assert [each.is_reached for each in diagnoses] == [True] * 3
    assert common[0].cause is Cause.CROWDED_CORES


def test_servers_that_differ(server):
    with serving("deeprm", "--option", "num_nw=3") as other:
        _, common = examine([server.address, other.address], wishes("deeprm"))
    (found,) = [finding for finding in common if finding.cause is Cause.DIFFERENT]
    assert "shape" in found.evidence or "n " in found.evidence


def test_a_server_with_debug():
    with serving("adder", "--debug") as server:
        found = [finding.cause for finding in diagnose(server.address, wishes("adder")).findings]
    assert Cause.DEBUG in found[1:]


# -- policies -----------------------------------------------------------------------------


class Thinker(policy_pb2_grpc.PolicyServicer):
    """A policy server as someone else may write one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def Describe(self, request: Any, context: Any) -> policy_pb2.DescribePoliciesReply:
        policy = policy_pb2.PolicyDescription(
            name="thinker",
            observation_space=spaces.to_proto(Box(-1, 1, (3,))),
            action_space=spaces.to_proto(Discrete(2)),
        )
        return policy_pb2.DescribePoliciesReply(protocol_version="1.0", policies=[policy])

    def Act(self, request: policy_pb2.ActRequest, context: Any) -> policy_pb2.ActReply:
        if request.policy != "thinker":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such policy")
        time.sleep(self._seconds)
        encoded = spaces.encode(Discrete(2), np.zeros(request.rows, np.int64), request.rows)
        return policy_pb2.ActReply(action=tensor_pb2.Value(tensors=encoded))


@pytest.fixture
def thinking() -> Iterator[Callable[[float], str]]:
    servers = []

    def start(seconds: float) -> str:
        server = grpc.server(ThreadPoolExecutor(4))
        policy_pb2_grpc.add_PolicyServicer_to_server(Thinker(seconds), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


def test_a_policy_that_thinks_for_long(thinking):
    diagnosis = diagnose(thinking(0.03), wishes())
    assert diagnosis.findings[0].cause is Cause.INFERENCE
    assert diagnosis.shares[0].part == "inference"


def test_a_policy_far_away(thinking):
    with Proxy(thinking(0.0)) as proxy:
        proxy.delay(0.03)
        assert first(proxy.address, wishes()) is Cause.LATENCY
