"""``farsim policy --ray-serve``."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from agent.policy import ray_serve
from agent.policy.ray_serve import RayServeMissing
from agent.policy.runtime import Settings
from farsim import spaces
from farsim.channel import ConnectionOptions
from farsim.check import runner
from farsim.check.policy.subjects import subjects
from farsim.check.policy.suite import CHECKS
from farsim.check.verdicts import Status
from farsim.errors import InvalidArgument
from farsim.serving import InsecureAddress
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc, simulator_pb2, tensor_pb2
from tests.servers import ROOT


def test_what_ray_serve_lacks_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(RayServeMissing, match=r"pip install 'farsim\[serve\]'"):
        ray_serve.application(Settings(Path("anywhere")))


def test_replicas_are_checked():
    for replicas in ("0", "x", "3-2", "-1"):
        with pytest.raises(InvalidArgument, match="neither a number nor min-max"):
            ray_serve.application(Settings(Path("anywhere")), replicas=replicas)
    with pytest.raises(InvalidArgument, match="cannot share an audit log"):
        ray_serve.application(Settings(Path("anywhere"), audit=Path("a.jsonl")))


def test_grpc_on_every_interface_has_to_be_wanted():
    with pytest.raises(InsecureAddress, match="listens on every interface"):
        ray_serve.run(None, "127.0.0.1:1", False, "", lambda _: None, grpc_port=2)
    with pytest.raises(InsecureAddress, match="Ray Serve speaks plain text"):
        ray_serve.run(None, "10.0.0.1:1", False, "", lambda _: None)


def test_replicas_scale_between_two_numbers():
    app = ray_serve.application(Settings(Path("anywhere")), replicas="2-5", ongoing_requests=7)
    scaling = app._bound_deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    assert scaling.target_ongoing_requests == 7


@dataclass(frozen=True)
class Application:
    """What ``farsim policy --ray-serve`` runs, and where."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def application(trained, tmp_path_factory) -> Iterator[Application]:
    ports = tmp_path_factory.mktemp("serve") / "ports"
    arguments = ["--ray-serve", "--address", f"127.0.0.1:{free_port()}", "--replicas", "1-2"]
    arguments += ["--grpc-port", str(free_port()), "--insecure", "--port-file", str(ports)]
    process = subprocess.Popen(
        [sys.executable, "-m", "farsim", "policy", str(trained / "masked"), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    try:
        deadline = time.monotonic() + 120
        while not ports.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield Application(process, *ports.read_text().split())
    finally:
        process.kill()
        process.wait(20)


def act(observation: int, **more: object) -> pb.ActRequest:
    tensors = spaces.encode(Discrete(5), np.array([observation]), 1)
    return pb.ActRequest(observation=tensor_pb2.Value(tensors=tensors), **more)


@pytest.mark.slow
def test_an_application_answers_over_http(application):
    connection = http.client.HTTPConnection(application.http, timeout=60)
    connection.request("POST", "/act", json.dumps({"observation": 3}))
    reply = json.loads(connection.getresponse().read())
    assert reply["version"] == 2 and 0 <= reply["action"] < 5
    connection.request("POST", "/act", json.dumps({"observation": 13}))
    assert connection.getresponse().status == 400
    connection.close()


@pytest.mark.slow
def test_an_application_answers_over_grpc_what_it_does_over_http(application):
    connection = http.client.HTTPConnection(application.http, timeout=60)
    with grpc.insecure_channel(application.grpc) as channel:
        stub = policy_pb2_grpc.PolicyStub(channel)
        described = stub.Describe(pb.DescribePoliciesRequest(protocol_version="1.0"), timeout=60)
        assert [policy.name for policy in described.policies] == ["default_policy"]
        assert not described.modes and described.policies[0].versions == [2]
        for seen in range(5):
            reply = stub.Act(act(seen), timeout=60)
            connection.request("POST", "/act", json.dumps({"observation": seen}))
            expected = json.loads(connection.getresponse().read())
            (action,) = spaces.decode(Discrete(5), reply.action.tensors, 1)
            assert (action, reply.policy_version) == (expected["action"], expected["version"])
    connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (act(1, policy="nobody"), "NOT_FOUND", "UNKNOWN_POLICY"),
        (act(1, policy_version=99), "FAILED_PRECONDITION", "UNKNOWN_POLICY"),
        (act(1, digest="other"), "FAILED_PRECONDITION", "SPACE_MISMATCH"),
        (act(1, rows=2), "INVALID_ARGUMENT", "INVALID_OBSERVATION"),
    ],
)
def test_an_application_says_over_grpc_what_is_wrong(application, request_, status, code):
    with grpc.insecure_channel(application.grpc) as channel:
        stub = policy_pb2_grpc.PolicyStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Act(request_, timeout=60)
    assert caught.value.code().name == status
    trailing = dict(caught.value.trailing_metadata())
    error = simulator_pb2.Error.FromString(trailing["farsim-error-bin"])
    assert simulator_pb2.ErrorCode.Name(error.code) == f"ERROR_CODE_{code}"
    assert error.message == caught.value.details()


@pytest.mark.slow
def test_an_application_refuses_another_version_of_the_contract(application):
    with grpc.insecure_channel(application.grpc) as channel:
        stub = policy_pb2_grpc.PolicyStub(channel)
        with pytest.raises(grpc.RpcError, match="speaks version 1"):
            stub.Describe(pb.DescribePoliciesRequest(protocol_version="99.0"), timeout=60)


@pytest.mark.slow
def test_an_application_keeps_the_contract_as_far_as_it_goes(application):
    outcomes = runner.run(subjects(application.grpc, ConnectionOptions()), CHECKS)
    wrong = {o.check.title for o in outcomes if o.status in (Status.failed, Status.blocked)}
    # Ray Serve has a service of its own for it.
    assert wrong == {"serving/health"}
    assert all(o.status is Status.not_offered for o in outcomes if o.check.group == "live")


@pytest.mark.slow
def test_an_application_has_no_live_sessions(application):
    with grpc.insecure_channel(application.grpc) as channel:
        stub = policy_pb2_grpc.PolicyStub(channel)
        replies = stub.Live(iter([pb.LiveEvent(sequence=1, hello=pb.Hello())]), timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.slow
def test_an_application_stops_on_sigterm(application):
    application.process.send_signal(signal.SIGTERM)
    assert application.process.wait(60) == 0
