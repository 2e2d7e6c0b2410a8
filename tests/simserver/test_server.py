"""A server and its sessions, as a client in another process meets them."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from farsim import spaces, tensors
from farsim.certs import make_certificates
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import simulator_pb2_grpc, tensor_pb2
from tests.raw_client import RawStream, opening, reset, step
from tests.servers import ROOT, serving

SLOW = "tests.simulators.envs:Slow"


def seconds(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def counts(reply: pb.SimReply) -> list[int]:
    assert reply.HasField("batch"), reply
    return tensors.unpack(reply.batch.groups[0].observation.tensors[0])[:, 0].tolist()


def resume(token: str) -> pb.SimRequest:
    return pb.SimRequest(resume=pb.Resume(session_token=token, protocol_version="1.0"))


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def slow():
    with serving(SLOW, "--heartbeat-seconds", "0.1") as server:
        yield server


@pytest.fixture
def channel(slow):
    with grpc.insecure_channel(slow.address) as channel:
        yield channel


def test_a_broken_stream_is_resumed_and_nothing_is_stepped_twice(channel):
    first = RawStream(channel)
    token = first.ask(opening()).opened.session_token
    first.ask(reset(2))
    assert counts(first.ask(step(3, seconds(0, 0)))) == [1, 1]
    first.send(step(4, seconds(0.3, 0)))
    first.send(step(5, seconds(0, 0)))
    time.sleep(0.1)
    first.cut()

    second = RawStream(channel)
    assert second.ask(resume(token)).resumed.last_sequence in (4, 5)
    assert counts(second.ask(step(4, seconds(0.3, 0)))) == [2, 2]
    assert counts(second.ask(step(5, seconds(0, 0)))) == [3, 3]
    assert counts(second.ask(step(6, seconds(0, 0)))) == [4, 4]
    assert second.ask(pb.SimRequest(sequence=7, close=pb.Close())).HasField("closed")


def test_a_stream_that_resumes_ends_the_one_before(channel):
    first, second = RawStream(channel), RawStream(channel)
    token = first.ask(opening()).opened.session_token
    first.ask(reset(2))
    assert second.ask(resume(token)).HasField("resumed")
    assert first.status() is grpc.StatusCode.ABORTED
    assert counts(second.ask(step(3, seconds(0, 0)))) == [1, 1]
    assert second.ask(pb.SimRequest(sequence=4, close=pb.Close())).HasField("closed")


def test_a_closed_session_can_not_be_resumed(channel):
    stream = RawStream(channel)
    token = stream.ask(opening()).opened.session_token
    assert stream.ask(pb.SimRequest(sequence=2, close=pb.Close())).HasField("closed")
    reply = RawStream(channel).ask(resume(token))
    assert reply.error.code == pb.ERROR_CODE_SESSION_LOST


def test_a_long_step_sends_heartbeats(channel):
    stream = RawStream(channel)
    stream.ask(opening())
    stream.ask(reset(2))
    stream.send(step(3, seconds(0.7, 0)))
    kinds = []
    for reply in stream.replies:
        kinds.append(reply.WhichOneof("reply"))
        assert reply.sequence == 3
        if kinds[-1] == "batch":
            break
    assert kinds[:-1] and set(kinds[:-1]) == {"heartbeat"}
    assert stream.ask(pb.SimRequest(sequence=4, close=pb.Close())).HasField("closed")


def test_one_environments_exception_is_its_own(channel):
    stream = RawStream(channel)
    stream.ask(opening(num_environments=3))
    stream.ask(reset(2))
    stream.ask(step(3, seconds(0, 0, 0)))
    reply = stream.ask(step(4, seconds(0, -0.5, 0)))
    assert counts(reply) == [2, 1, 2]
    (fault,) = reply.batch.faults
    assert fault.environment == 1
    assert fault.error.code == pb.ERROR_CODE_SIMULATOR
    assert fault.error.message == "RuntimeError: negative time"
    assert not fault.error.traceback
    assert tensors.unpack(reply.batch.groups[0].truncated).tolist() == [False, True, False]
    reply = stream.ask(step(5, seconds(0, 0, 0)))
    assert counts(reply) == [3, 0, 3]
    assert list(reply.batch.started.index) == [1]
    assert stream.ask(pb.SimRequest(sequence=6, close=pb.Close())).HasField("closed")


def test_an_observation_outside_its_space_is_that_environments_fault(channel):
    stream = RawStream(channel)
    stream.ask(opening(num_environments=3))
    stream.ask(reset(2))
    reply = stream.ask(step(3, seconds(0, -1, 0)))
    assert counts(reply) == [1, 0, 1]
    assert [fault.environment for fault in reply.batch.faults] == [1]
    assert counts(stream.ask(step(4, seconds(0, 0, 0)))) == [2, 0, 2]
    assert stream.ask(pb.SimRequest(sequence=5, close=pb.Close())).HasField("closed")


def test_a_reply_that_is_too_large_is_an_error_and_asks_for_a_reset():
    with (
        serving("gymnasium/CartPole-v1", "--max-message-bytes", "65536") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = RawStream(channel)
        stream.ask(opening(num_environments=4000))
        reply = stream.ask(reset(2))
        assert reply.error.code == pb.ERROR_CODE_LIMIT
        assert "--max-message-bytes" in reply.error.message
        few = tensor_pb2.Rows(index=range(10))
        action = np.zeros(10, np.int64)
        reply = stream.ask(step(3, action, environments=few))
        assert reply.error.code == pb.ERROR_CODE_PROTOCOL
        assert stream.ask(reset(4, environments=few)).HasField("batch")
        assert stream.ask(step(5, action, environments=few)).HasField("batch")


def test_subsets_of_environments(channel):
    stream = RawStream(channel)
    stream.ask(opening(num_environments=3))
    stream.ask(reset(2))
    reply = stream.ask(step(3, seconds(0), environments=tensor_pb2.Rows(index=[1])))
    assert list(reply.batch.environments.index) == [1]
    assert counts(stream.ask(step(4, seconds(0, 0, 0)))) == [1, 2, 1]
    reply = stream.ask(reset(5, environments=tensor_pb2.Rows(index=[0, 1])))
    assert list(reply.batch.started.index) == [0, 1]
    assert counts(stream.ask(step(6, seconds(0, 0, 0)))) == [1, 1, 2]
    assert stream.ask(pb.SimRequest(sequence=7, close=pb.Close())).HasField("closed")


def test_rendering(channel):
    stream = RawStream(channel)
    stream.ask(opening(render_mode="rgb_array"))
    stream.ask(reset(2))
    stream.ask(step(3, seconds(0, 0)))
    frames = stream.ask(pb.SimRequest(sequence=4, render=pb.Render())).frames.frames
    assert [tensors.unpack(frame).shape for frame in frames] == [(4, 6, 3)] * 2
    assert tensors.unpack(frames[0]).max() == 1
    assert stream.ask(pb.SimRequest(sequence=5, close=pb.Close())).HasField("closed")


def test_masks_infos_and_per_episode_options_of_a_users_own_environment():
    with (
        serving("tests.simulators.envs:Masked", "--option", "target=3") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        (described,) = (
            simulator_pb2_grpc.SimulatorStub(channel).Describe(pb.DescribeRequest()).simulators
        )
        (parameter,) = described.parameters
        assert parameter.per_episode and parameter.description == "the allowed action"
        assert tensors.unpack(parameter.default.tensors[0]).tolist() == [3]
        assert described.groups[0].has_action_mask

        stream = RawStream(channel)
        stream.ask(opening())
        reply = stream.ask(reset(2))
        mask = tensors.unpack(reply.batch.groups[0].action_masks[0])
        assert mask.tolist() == [[False, False, False, True, False]] * 2
        infos = {info.name: info for info in reply.batch.groups[0].infos}
        assert tensors.unpack(infos["nested/target"].tensor).tolist() == [3, 3]
        assert list(infos["name"].texts.texts) == ["t3", "t3"]

        values = {"target": tensor_pb2.Value(tensors=[tensors.pack(np.array([1, 2]))])}
        reply = stream.ask(reset(3, options=pb.Options(values=values)))
        used = reply.batch.episode_options.values["target"].tensors[0]
        assert tensors.unpack(used).tolist() == [1, 2]
        stream.ask(step(4, np.array([1, 1])))
        reply = stream.ask(step(5, np.array([0, 0])))
        used = reply.batch.episode_options.values["target"].tensors[0]
        assert tensors.unpack(used).tolist() == [1, 2], "options hold until others are given"


def test_an_environment_whose_reset_fails_is_made_anew():
    with (
        serving("tests.simulators.envs:Breaks") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = RawStream(channel)
        stream.ask(opening())
        stream.ask(reset(2))
        faults = 0
        for sequence in range(3, 13):
            reply = stream.ask(step(sequence, np.zeros(2, np.int64)))
            faults += len(reply.batch.faults)
        assert 0 < faults <= 6, "at most one fault in every three steps of each"


def test_a_vector_environment_that_fails_starts_anew():
    with (
        serving("tests.simulators.envs:BreaksOnce") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = RawStream(channel)
        stream.ask(opening())
        stream.ask(reset(2))
        stream.ask(step(3, np.zeros(2, np.int64)))
        assert len(stream.ask(step(4, np.ones(2, np.int64))).batch.faults) == 2
        reply = stream.ask(step(5, np.ones(2, np.int64)))
        assert list(reply.batch.started.index) == [0, 1], "the step after is a reset"
        reply = stream.ask(step(6, np.zeros(2, np.int64)))
        assert not reply.batch.faults and not reply.batch.started.index


def test_a_client_that_never_reads_leaves_no_thread_behind():
    with (
        serving("tests.simulators.envs:make_vector", "--lease-seconds", "1") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        process = psutil.Process(server.process.pid)
        stream = RawStream(channel)
        stream.ask(opening(num_environments=3000))
        stream.ask(reset(2))
        before = process.num_threads()
        for _ in range(3):
            idler = RawStream(channel)
            idler.send(opening(num_environments=300))
            idler.send(reset(2))
            for sequence in range(3, 60):
                idler.send(step(sequence, np.zeros(300, np.int64)))
            time.sleep(0.2)
            idler.cut()
        # gRPC keeps its pool threads, one for each stream that there was.
        wait_until(lambda: process.num_threads() <= before + 3, "threads to end")


def test_a_vector_environment_keeps_to_its_own_mode():
    with (
        serving("tests.simulators.envs:make_vector") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = RawStream(channel)
        reply = stream.ask(opening(autoreset_mode=pb.AUTORESET_MODE_DISABLED))
        assert reply.error.code == pb.ERROR_CODE_UNSUPPORTED
        assert stream.ask(opening(num_environments=3)).HasField("opened")
        reply = stream.ask(reset(2, seeds=[1, 2, 3]))
        assert list(reply.batch.started.index) == [0, 1, 2]
        ended = started = np.array([], np.int64)
        for sequence in range(3, 40):
            reply = stream.ask(step(sequence, np.zeros(3, np.int64)))
            if len(ended):
                started = np.array(reply.batch.started.index)
                break
            ended = np.flatnonzero(tensors.unpack(reply.batch.groups[0].terminated))
        assert len(ended) and started.tolist() == ended.tolist()
        one = stream.ask(
            step(sequence + 1, np.zeros(1, np.int64), environments=tensor_pb2.Rows(index=[0]))
        )
        assert one.error.code == pb.ERROR_CODE_UNSUPPORTED


def test_sigterm_finishes_what_is_being_done_and_tells_clients():
    with serving(SLOW, anew=True) as server, grpc.insecure_channel(server.address) as channel:
        busy, idle = RawStream(channel), RawStream(channel)
        for stream in (busy, idle):
            stream.ask(opening())
            stream.ask(reset(2))
        busy.send(step(3, seconds(1, 0)))
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert idle.receive().HasField("draining")
        assert idle.ask(step(3, seconds(0, 0))).error.code == pb.ERROR_CODE_DRAINING
        assert busy.receive().HasField("draining")
        assert counts(busy.receive()) == [1, 1]
        assert busy.status() is grpc.StatusCode.OK
        assert server.process.wait(20) == 0


def test_debug_sends_tracebacks():
    with serving(SLOW, "--debug") as server, grpc.insecure_channel(server.address) as channel:
        stream = RawStream(channel)
        stream.ask(opening())
        stream.ask(reset(2))
        reply = stream.ask(step(3, seconds(-1, 0)))
        assert "Traceback" in reply.batch.faults[0].error.traceback


def test_health_and_reflection(slow, channel):
    check = health_pb2_grpc.HealthStub(channel).Check
    for service in ("", "farsim.v1.Simulator"):
        status = check(health_pb2.HealthCheckRequest(service=service)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"farsim.v1.Simulator", "grpc.health.v1.Health"} <= set(services)


def test_metrics():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        serving(SLOW, "--metrics-port", str(port), anew=True) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = RawStream(channel)
        stream.ask(opening(num_environments=3))
        stream.ask(reset(2))
        stream.ask(step(3, seconds(0, 0, -0.5)))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            text = page.read().decode()
    figures = dict(re.findall(r'^(\w+)\{simulator="[^"]+"\} (\S+)$', text, re.MULTILINE))
    assert float(figures["farsim_sessions"]) == 1
    assert float(figures["farsim_environments"]) == 3
    assert float(figures["farsim_environment_steps_total"]) == 3
    assert float(figures["farsim_faults_total"]) == 1
    assert float(figures["farsim_step_seconds_count"]) == 1
    assert re.search(r'farsim_bytes_total\{direction="sent"\} [1-9]', text)


def test_a_worker_that_dies_is_started_anew_on_its_port():
    with serving(SLOW, "--workers", "2") as server:
        supervisor = psutil.Process(server.process.pid)
        victim = supervisor.children()[0]
        victim.kill()
        wait_until(
            lambda: (
                victim.pid not in {p.pid for p in supervisor.children()}
                and len(supervisor.children()) == 2
            ),
            "a new worker",
        )
        for address in server.addresses:
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(30)
                assert RawStream(channel).ask(opening()).HasField("opened")
        workers = supervisor.children()
    assert not any(worker.is_running() for worker in workers), "workers stop with the supervisor"


def test_a_step_that_hangs_makes_the_worker_start_anew():
    with serving(SLOW, "--workers", "2", "--max-step-seconds", "0.5") as server:
        supervisor = psutil.Process(server.process.pid)
        before = {p.pid for p in supervisor.children()}
        with grpc.insecure_channel(server.address) as channel:
            stream = RawStream(channel)
            stream.ask(opening())
            stream.ask(reset(2))
            stream.send(step(3, seconds(60, 0)))
            assert stream.status() is grpc.StatusCode.UNAVAILABLE
        wait_until(
            lambda: len({p.pid for p in supervisor.children()} - before) == 1, "a new worker"
        )


def test_workers_stop_when_the_supervisor_is_killed():
    with serving(SLOW, "--workers", "2") as server:
        children = psutil.Process(server.process.pid).children()
        server.kill()
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert len(gone) == 2 and not alive


def serve_and_fail(*arguments: str) -> str:
    command = [sys.executable, "-m", "farsim", "serve", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr
    return result.stderr


def test_plain_text_beyond_this_machine_is_refused():
    text = serve_and_fail("adder", "--address", "0.0.0.0:0")
    assert "--tls-cert" in text and "--insecure" in text
    with serving("adder", "--insecure", address="0.0.0.0:0") as server:
        port = server.address.rpartition(":")[2]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert RawStream(channel).ask(opening()).HasField("opened")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["addr"], "did you mean 'adder'?"),
        (["gymnasium/CartPol-v1"], "CartPole"),
        (["tests.simulators.nothing:Env"], "no module 'tests.simulators.nothing'"),
        (["tests.simulators.envs:Slo"], "did you mean 'Slow'?"),
        (["adder", "--option", "inital_value=3"], "did you mean 'initial_value'?"),
        (["adder", "--option", "initial_value"], "name=value"),
        (["adder", "--address", "localhost"], "host:port"),
    ],
)
def test_mistakes_on_the_command_line(arguments, words):
    assert words in serve_and_fail(*arguments)


def test_a_port_that_is_taken():
    with serving("adder") as server:
        assert "is the port taken" in serve_and_fail("adder", "--address", server.address)
        port = server.address.rpartition(":")[2]
        assert "--metrics-port" in serve_and_fail(
            "adder", "--address", "127.0.0.1:0", "--metrics-port", port
        )


def test_a_key_of_another_certificate(tmp_path: Path):
    make_certificates(tmp_path, ["localhost"], days=1)
    flags = ["--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "ca-key.pem")]
    assert "the key must belong" in serve_and_fail("adder", "--address", "127.0.0.1:0", *flags)


def test_mutual_tls(tmp_path: Path):
    make_certificates(tmp_path, ["localhost", "127.0.0.1"], days=1)
    flags = [
        f"--tls-{name}={tmp_path / file}"
        for name, file in [
            ("cert", "server.pem"),
            ("key", "server-key.pem"),
            ("client-ca", "ca.pem"),
        ]
    ]
    ca = (tmp_path / "ca.pem").read_bytes()
    with serving("adder", *flags) as server:
        known = grpc.ssl_channel_credentials(
            ca, (tmp_path / "client-key.pem").read_bytes(), (tmp_path / "client.pem").read_bytes()
        )
        unknown = grpc.ssl_channel_credentials(ca)
        with grpc.secure_channel(server.address, unknown) as channel:
            stream = RawStream(channel)
            stream.send(opening())
            assert stream.status() is grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(server.address) as channel:
            stream = RawStream(channel)
            stream.send(opening())
            assert stream.status() is grpc.StatusCode.UNAVAILABLE
        with grpc.secure_channel(server.address, known) as channel:
            assert RawStream(channel).ask(opening()).HasField("opened")


def test_the_description_tells_all(slow, channel):
    reply = simulator_pb2_grpc.SimulatorStub(channel).Describe(pb.DescribeRequest())
    assert reply.protocol_version == "1.0"
    assert reply.limits.max_in_flight == 16
    (simulator,) = reply.simulators
    assert simulator.name == SLOW
    assert list(simulator.render_modes) == ["rgb_array"]
    assert len(simulator.autoreset_modes) == 3
    (group,) = simulator.groups
    space = spaces.from_proto(group.action_space)
    assert space.shape == () and space.high == 60
    assert [p.name for p in simulator.parameters] == ["limit"]
