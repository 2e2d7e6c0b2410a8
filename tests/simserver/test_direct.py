"""What our own clients get, which are answered without gRPC: the same as all others."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from agent.remote_vector_env import RemoteVectorEnv
from farsim.certs import make_certificates
from farsim.http2.events import Broken
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import simulator_pb2_grpc
from tests.direct_client import DESCRIBE, DirectStream
from tests.raw_client import RawStream, opening, reset, step
from tests.servers import Serving, serving
from tests.simserver.test_server import SLOW, counts, resume, seconds, wait_until

CARTPOLE = "gymnasium/CartPole-v1"

Dial = Callable[..., Any]


@pytest.fixture(scope="module")
def slow() -> Iterator[Serving]:
    flags = ["--heartbeat-seconds", "0.1", "--max-message-bytes", "100000"]
    with serving(SLOW, CARTPOLE, *flags) as server:
        yield server


@pytest.fixture
def direct() -> Iterator[Dial]:
    """Makes clients that are answered directly."""
    with ExitStack() as stack:

        def dial(address: str, metadata: Any = (), **more: Any) -> DirectStream:
            stream = DirectStream(address, metadata, **more)
            stack.callback(stream.close)
            return stream

        yield dial


@pytest.fixture
def relayed() -> Iterator[Dial]:
    """Makes clients of gRPC's own kind."""
    with ExitStack() as stack:

        def dial(address: str, metadata: Any = ()) -> RawStream:
            channel = stack.enter_context(grpc.insecure_channel(address))
            return RawStream(channel, metadata or None)

        yield dial


@pytest.fixture(params=["direct", "relayed"])
def dial(request: pytest.FixtureRequest) -> Dial:
    found: Dial = request.getfixturevalue(request.param)
    return found


def test_the_same_replies_on_both_ways(slow, direct, relayed):
    played = []
    for stream in (direct(slow.address), relayed(slow.address)):
        replies = [stream.ask(opening(CARTPOLE)), stream.ask(reset(2, seeds=[1, -5]))]
        for sequence in range(3, 40):
            replies.append(stream.ask(step(sequence, np.array([1, sequence % 2]))))
        replies.append(stream.ask(step(40, np.array([7, 7]))))
        replies.append(stream.ask(pb.SimRequest(sequence=41, close=pb.Close())))
        assert stream.status() is grpc.StatusCode.OK
        for reply in replies:
            reply.ClearField("timing")
        replies[0].opened.session_token = ""
        played.append(replies)
    assert played[0] == played[1]
    assert played[0][-2].HasField("error") and played[0][-1].HasField("closed")


def test_bytes_that_are_no_request(slow, dial):
    stream = dial(slow.address)
    stream.ask(opening(SLOW))
    stream.send(b"\xff\xff\xff")
    assert stream.status() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_over_the_limit(slow, dial):
    stream = dial(slow.address)
    stream.ask(opening(SLOW))
    stream.send(bytes(4_000_000))
    assert stream.status() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_client_that_ends_its_side_gets_what_it_lacks(slow, dial):
    stream = dial(slow.address)
    stream.ask(opening(SLOW))
    stream.send(reset(2))
    stream.send(step(3, seconds(0.2, 0)))
    stream.end()
    assert stream.receive().sequence == 2
    assert counts(stream.receive()) == [1, 1]
    assert stream.status() is grpc.StatusCode.OK


def test_heartbeats_during_a_long_step(slow, dial):
    stream = dial(slow.address)
    stream.ask(opening(SLOW))
    stream.ask(reset(2))
    stream.send(step(3, seconds(0.7, 0)))
    elapsed = []
    for reply in stream.replies:
        assert reply.sequence == 3
        if not reply.HasField("heartbeat"):
            break
        elapsed.append(reply.heartbeat.elapsed_seconds)
    assert elapsed and elapsed == sorted(elapsed)


def test_a_heartbeat_that_a_client_asks_for(direct):
    with serving(SLOW, "--heartbeat-seconds", "60") as server:
        stream = direct(server.address)
        stream.ask(opening(heartbeat_seconds=0.05))
        stream.ask(reset(2))
        stream.send(step(3, seconds(0.5, 0)))
        assert next(stream.replies).HasField("heartbeat")
        assert stream.receive().HasField("batch")


def test_resuming_ends_the_stream_before_on_either_way(slow, direct, relayed):
    first = direct(slow.address)
    token = first.ask(opening(SLOW)).opened.session_token
    first.ask(reset(2))
    sequence = 3
    for dial in (relayed, direct, direct, relayed):
        second = dial(slow.address)
        assert second.ask(resume(token)).resumed.last_sequence == sequence - 1
        assert first.status() is grpc.StatusCode.ABORTED
        assert counts(second.ask(step(sequence, seconds(0, 0)))) == [sequence - 2] * 2
        first, sequence = second, sequence + 1


def test_a_stream_at_work_ends_as_soon_as_another_one_resumes(slow, direct):
    first, second = direct(slow.address), direct(slow.address)
    token = first.ask(opening(SLOW)).opened.session_token
    first.ask(reset(2))
    first.send(step(3, seconds(1, 0)))
    assert next(first.replies).HasField("heartbeat")
    assert second.ask(resume(token)).resumed.last_sequence == 3
    assert first.status() is grpc.StatusCode.ABORTED
    assert first.details == "another stream has resumed this session"
    assert counts(second.ask(step(3, seconds(1, 0)))) == [1, 1]


def test_calls_one_after_the_other_on_one_connection(slow, direct):
    stream = direct(slow.address, path=DESCRIBE)
    stream.send(b"")
    (described,) = map(pb.DescribeReply.FromString, stream.messages)
    assert [s.name for s in described.simulators] == [SLOW, CARTPOLE]
    assert stream.status() is grpc.StatusCode.OK
    stream.call(DESCRIBE)
    stream.send(pb.DescribeRequest(protocol_version="2.0").SerializeToString())
    assert stream.status() is grpc.StatusCode.FAILED_PRECONDITION
    assert "'2.0'" in stream.details
    stream.call("/farsim.v1.Simulator/Walk")
    assert stream.status() is grpc.StatusCode.UNIMPLEMENTED
    for _ in range(2):
        stream.call()
        stream.ask(opening(SLOW))
        assert stream.ask(pb.SimRequest(sequence=2, close=pb.Close())).HasField("closed")
        assert stream.status() is grpc.StatusCode.OK


def test_a_call_given_up_says_nothing_on_the_next(slow, direct):
    stream = direct(slow.address)
    token = stream.ask(opening(SLOW)).opened.session_token
    stream.ask(reset(2))
    stream.send(step(3, seconds(0.5, 0)))
    assert next(stream.replies).HasField("heartbeat")
    stream.call()  # Gives the other one up.
    assert stream.ask(resume(token)).resumed.last_sequence == 3
    assert counts(stream.ask(step(3, seconds(0.5, 0)))) == [1, 1]


@pytest.mark.parametrize("metadata", [(), [("authorization", "Bearer guess")]])
def test_a_token_missing_or_wrong(tmp_path: Path, direct, metadata):
    file = tmp_path / "token"
    file.write_text("sesame\n")
    with serving("adder", "--token-file", str(file)) as server:
        with grpc.insecure_channel(server.address) as channel:
            describe = simulator_pb2_grpc.SimulatorStub(channel).Describe
            with pytest.raises(grpc.RpcError) as caught:
                describe(pb.DescribeRequest(), metadata=metadata or None)
        stream = direct(server.address, metadata)
        assert stream.status() is caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert stream.details == caught.value.details()
        stream.call(DESCRIBE, metadata)
        assert stream.status() is grpc.StatusCode.UNAUTHENTICATED
        stream.call(metadata=[("authorization", "Bearer sesame")])
        assert stream.ask(opening()).HasField("opened")


def test_mutual_tls(tmp_path: Path, direct):
    make_certificates(tmp_path, ["localhost", "127.0.0.1"], days=1)
    files = {"cert": "server.pem", "key": "server-key.pem", "client-ca": "ca.pem"}
    flags = [f"--tls-{name}={tmp_path / file}" for name, file in files.items()]
    unknown, known = (ssl.create_default_context(cafile=str(tmp_path / "ca.pem")) for _ in range(2))
    for context in (unknown, known):
        context.set_alpn_protocols(["h2"])
    known.load_cert_chain(tmp_path / "client.pem", tmp_path / "client-key.pem")
    with serving("adder", *flags) as server:
        for refused in ({"tls": unknown}, {}):
            with pytest.raises((OSError, Broken)):
                direct(server.address, **refused).ask(opening())
        stream = direct(server.address, tls=known)
        assert stream.sock.selected_alpn_protocol() == "h2"
        assert stream.ask(opening(num_environments=500)).HasField("opened")
        assert stream.ask(reset(2)).HasField("batch")
        for sequence in range(3, 20):
            assert stream.ask(step(sequence, np.ones(500, np.int64))).HasField("batch")


def test_sigterm_in_the_middle_of_a_step(direct):
    with serving(SLOW, "--heartbeat-seconds", "0.1", anew=True) as server:
        busy, idle, silent = (direct(server.address) for _ in range(3))
        for stream in (busy, idle):
            stream.ask(opening())
            stream.ask(reset(2))
        busy.send(step(3, seconds(1, 0)))
        while not busy.link.events:
            with busy.link.lock:
                busy.link.pump(5)
        server.process.send_signal(signal.SIGTERM)
        assert idle.receive().HasField("draining")
        assert idle.ask(step(3, seconds(0, 0))).error.code == pb.ERROR_CODE_DRAINING
        assert busy.receive().HasField("draining")
        assert counts(busy.receive()) == [1, 1]
        assert busy.status() is grpc.StatusCode.OK
        assert silent.status() is grpc.StatusCode.OK
        assert server.process.wait(20) == 0


def test_a_client_that_vanishes_in_the_middle_of_a_step_has_its_lease(direct):
    flags = ["--max-sessions", "1", "--lease-seconds", "0.2", "--heartbeat-seconds", "0.1"]
    with serving(SLOW, *flags, "--grace-seconds", "0") as server:
        first, second = direct(server.address), direct(server.address)
        first.ask(opening())
        first.ask(reset(2))
        assert second.ask(opening()).error.code == pb.ERROR_CODE_LIMIT
        first.send(step(3, seconds(60, 0)))
        assert next(first.replies).HasField("heartbeat")
        first.cut()
        wait_until(lambda: second.ask(opening()).HasField("opened"), "the lease to run out")
        server.kill()


def test_a_session_is_resumed_after_a_break(slow, direct):
    first = direct(slow.address)
    token = first.ask(opening(SLOW)).opened.session_token
    first.ask(reset(2))
    first.send(step(3, seconds(0.3, 0)))
    assert next(first.replies).HasField("heartbeat")
    first.cut()
    second = direct(slow.address)
    assert second.ask(resume(token)).resumed.last_sequence == 3
    assert counts(second.ask(step(3, seconds(0.3, 0)))) == [1, 1]
    assert counts(second.ask(step(4, seconds(0, 0)))) == [2, 2]


def test_what_waits_awake_steps_the_same() -> None:
    def seen(address: str, spin_seconds: float) -> list[Any]:
        connection = {"spin_seconds": spin_seconds}
        env = RemoteVectorEnv(address, CARTPOLE, num_envs=3, connection=connection)
        try:
            rows = [env.reset(seed=7)[0]]
            for _ in range(40):
                observation, reward, terminated, *_ = env.step(np.array([0, 1, 0]))
                rows += [observation, reward, terminated]
            return rows
        finally:
            env.close()

    with serving(CARTPOLE, "--spin-seconds", "0.01") as server:
        for awake, asleep in zip(seen(server.address, 0.01), seen(server.address, 0), strict=True):
            np.testing.assert_array_equal(awake, asleep)
