"""``farsim policy`` as a process, and its service over gRPC."""

from __future__ import annotations

import http.client
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from gymnasium.spaces import Box

from agent.live.server import PolicyServer
from agent.policy import loading, rllib_checkpoint
from agent.policy.inference import CheckpointInference
from agent.training import checkpoint as checkpoints
from farsim import spaces
from farsim.cli import main
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc, tensor_pb2
from tests.agent.policy.test_inference import mark_of, marked
from tests.servers import ROOT

SEEN = Box(-50.0, 50.0, (3,), np.float32)
ACTED = Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 5.0], np.float32))


@dataclass
class Serving:
    """A running ``farsim policy``."""

    process: subprocess.Popen[bytes]
    addresses: list[str]
    log: Path

    def stub(self) -> policy_pb2_grpc.PolicyStub:
        return policy_pb2_grpc.PolicyStub(grpc.insecure_channel(self.addresses[0]))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "farsim", "policy", *map(str, arguments)]


@contextmanager
def serving(folder: Path, *arguments: object, address: str = "127.0.0.1:0") -> Iterator[Serving]:
    """Runs ``farsim policy``; at the end stops it, unless it was killed."""
    ports, log = folder / "ports", folder / "log"
    own = ("--address", address, "--port-file", ports, "--exit-with-parent", os.getpid())
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(*arguments, *own),
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 120
        while not ports.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.02)
        yield Serving(process, ports.read_text().split(), log)
        if process.poll() != -signal.SIGKILL:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)


def value(space: Any, *rows: Any) -> tensor_pb2.Value:
    tensors = spaces.encode(space, spaces.batch(space, list(rows)), len(rows))
    return tensor_pb2.Value(tensors=tensors)


def ask(stub: Any, version: int = 0) -> tuple[int, Any]:
    request = pb.ActRequest(observation=value(SEEN, np.zeros(3)), policy_version=version)
    reply = stub.Act(request, timeout=60)
    return reply.policy_version, spaces.decode(ACTED, reply.action.tensors, 1)[0]


def test_a_run_is_served_watched_and_audited(trained, tmp_path):
    """The whole command: gRPC and HTTP agree, a newer checkpoint comes in, all is logged."""
    run, audit = tmp_path / "run", tmp_path / "audit.jsonl"
    shutil.copytree(trained / "masked", run)
    checkpoints.point_to(run, run / "checkpoints" / "000001")
    arguments = [run, "--watch", "--watch-seconds", 0.05, "--http", 0, "--audit", audit]
    arguments += ["--shadow", run / "checkpoints" / "000002"]
    with serving(tmp_path, *arguments) as server:
        stub = server.stub()
        described = stub.Describe(pb.DescribePoliciesRequest(), timeout=60)
        (policy,) = described.policies
        assert policy.has_action_mask and list(policy.versions) == [1]
        request = pb.ActRequest(observation=value(spaces.from_proto(policy.observation_space), 3))
        reply = stub.Act(request, timeout=60)
        action = int(
            spaces.decode(spaces.from_proto(policy.action_space), reply.action.tensors, 1)[0]
        )

        connection = http.client.HTTPConnection(server.addresses[1], timeout=60)
        connection.request("POST", "/act", json.dumps({"observation": 3}))
        over_http = json.loads(connection.getresponse().read())
        assert over_http == {"action": action, "policy": "default_policy", "version": 1}

        checkpoints.point_to(run, run / "checkpoints" / "000002")
        deadline = time.monotonic() + 60
        while stub.Act(request, timeout=60).policy_version != 2:
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.02)
        request.policy_version = 1
        assert stub.Act(request, timeout=60).policy_version == 1
        connection.close()
    rows = [json.loads(line) for line in audit.read_text().splitlines()]
    assert len(rows) >= 4
    assert {row["version"] for row in rows} == {1, 2}
    assert {row["shadow_version"] for row in rows} == {2}
    assert all(row["observation"] == 3 for row in rows)
    # The shadow is the newer version itself.
    assert all(row["shadow_difference"] == 0 for row in rows if row["version"] == 2)
    assert "version 2 is" in server.log.read_text()


def told(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """The exit status of ``farsim policy`` in this process, and what it printed."""
    with pytest.raises(SystemExit) as ended:
        main(["policy", *map(str, arguments)])
    return int(ended.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{trained}/gone"], "there is nothing at"),
        (["{trained}/normalised"], "say --trust"),
        (["{trained}/normalised", "--trust", "--shadow", "{trained}/nested"], "for other spaces"),
        (["{trained}/masked", "--address", "0.0.0.0:0"], "can be reached from other machines"),
        (["{trained}/masked", "--audit", "audit.csv"], "neither in .jsonl"),
        (["{trained}/multi", "--trust", "--export", "{out}/a.onnx"], "name the policy with"),
        (["{trained}/masked", "--export", "{out}"], "is there already"),
    ],
)
def test_what_cannot_be_done_is_told(trained, tmp_path, capsys, arguments, complaint):
    arguments = [part.format(trained=trained, out=tmp_path) for part in arguments]
    code, _, errors = told(capsys, *arguments)
    assert code == 1
    assert complaint in errors
    assert not list(tmp_path.iterdir())


def test_what_does_not_go_together_is_told(trained, tmp_path, capsys):
    (tmp_path / "token").write_text("secret")
    for arguments, complaint in (
        (["--tls-cert", tmp_path / "token"], "go together"),
        (["--ray-serve", "--token-file", tmp_path / "token"], "has no TLS and no token"),
    ):
        code, _, errors = told(capsys, trained / "masked", *arguments)
        assert code == 2
        assert complaint in errors


def test_exports(trained, tmp_path, capsys):
    model, folder = tmp_path / "model.onnx", tmp_path / "policy"
    for target, source in ((model, trained / "masked"), (folder, trained / "normalised")):
        code, output, _ = told(capsys, source, "--trust", "--export", target)
        assert code == 0
        assert f"wrote {target}" in output
    assert model.stat().st_size > 500
    # What was written may be served without trust.
    assert loading.load(loading.find(folder)).policies


def test_a_hundred_swaps_with_clients_fail_none_and_mix_none(trained):
    """Calls and a live session over gRPC: every answer says its version, and is that one's."""
    recipe = rllib_checkpoint.read(trained / "normalised")
    inference = CheckpointInference(marked(recipe, 1))
    stop = threading.Event()
    problems: list[Any] = []
    seen: set[int] = set()

    def check(version: int, actions: Any) -> None:
        seen.add(version)
        if {mark_of(action) for action in actions} != {version}:
            problems.append((version, [mark_of(action) for action in actions]))

    def call(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = policy_pb2_grpc.PolicyStub(channel)
            request = pb.ActRequest(rows=3, observation=value(SEEN, *np.zeros((3, 3))))
            while not stop.is_set():
                reply = stub.Act(request, timeout=60)
                check(reply.policy_version, spaces.decode(ACTED, reply.action.tensors, 3))

    def live(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            events: queue.SimpleQueue[pb.LiveEvent | None] = queue.SimpleQueue()
            replies = policy_pb2_grpc.PolicyStub(channel).Live(iter(events.get, None))
            events.put(pb.LiveEvent(sequence=1, hello=pb.Hello(protocol_version="1.0")))
            assert next(replies).HasField("welcome")
            events.put(pb.LiveEvent(sequence=2, start=pb.EpisodeStart(episode=1)))
            assert next(replies).HasField("done")
            agent = pb.AgentObservation(observation=value(SEEN, np.zeros(3)))
            sequence = 2
            while not stop.is_set():
                sequence += 1
                observe = pb.Observe(episode=1, agents=[agent])
                events.put(pb.LiveEvent(sequence=sequence, observe=observe))
                (acted,) = next(replies).actions.agents
                check(acted.policy_version, spaces.decode(ACTED, acted.action.tensors, 1))
            events.put(None)

    def guarded(function: Any, address: str) -> None:
        try:
            function(address)
        except Exception as error:
            problems.append(error)

    with PolicyServer(inference) as server:
        threads = [
            threading.Thread(target=guarded, args=(function, server.address))
            for function in (call, call, live, live)
        ]
        for thread in threads:
            thread.start()
        try:
            for number in range(2, 102):
                inference.add(marked(recipe, number))
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
    assert not problems
    assert len(seen) > 10
