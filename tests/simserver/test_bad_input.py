"""What a server says to requests that are wrong; each time it serves the next client afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from farsim import tensors
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import simulator_pb2_grpc, tensor_pb2
from tests.raw_client import RawStream, opening, reset, step
from tests.servers import Serving, serving

CARTPOLE = "gymnasium/CartPole-v1"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    flags = ["--max-environments", "50", "--max-message-bytes", "100000"]
    with serving(CARTPOLE, "adder", *flags, "--lease-seconds", "1") as server:
        yield server


@pytest.fixture
def channel(server: Serving) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel
        assert_serves_the_next_client(server.address)


def assert_serves_the_next_client(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stream = RawStream(channel)
        assert stream.ask(opening(CARTPOLE)).HasField("opened")
        assert stream.ask(reset(2, seeds=[1, 2])).HasField("batch")
        assert stream.ask(step(3, np.zeros(2, np.int64))).HasField("batch")
        assert stream.ask(pb.SimRequest(sequence=4, close=pb.Close())).HasField("closed")
        assert stream.status() is grpc.StatusCode.OK


def assert_error(reply: pb.SimReply, code: pb.ErrorCode, *words: str) -> None:
    assert reply.WhichOneof("reply") == "error", reply
    assert pb.ErrorCode.Name(reply.error.code) == pb.ErrorCode.Name(code), reply.error
    for word in words:
        assert word in reply.error.message
    assert not reply.error.traceback


def running(channel: grpc.Channel, simulator: str = CARTPOLE) -> RawStream:
    stream = RawStream(channel)
    assert stream.ask(opening(simulator)).HasField("opened")
    assert stream.ask(reset(2)).HasField("batch")
    return stream


def finish(stream: RawStream, sequence: int) -> None:
    """The session has survived: it steps, and closes."""
    assert stream.ask(step(sequence, np.zeros(2, np.int64))).HasField("batch")
    assert stream.ask(pb.SimRequest(sequence=sequence + 1, close=pb.Close())).HasField("closed")


def value(array: np.ndarray) -> tensor_pb2.Value:
    return tensor_pb2.Value(tensors=[tensors.pack(array)])


def test_unknown_simulator(channel):
    reply = RawStream(channel).ask(opening("gymnasium/CartPole-v2"))
    assert_error(reply, pb.ERROR_CODE_UNKNOWN_SIMULATOR, "did you mean", CARTPOLE)


def test_no_simulator_named_where_there_are_several(channel):
    assert_error(RawStream(channel).ask(opening("")), pb.ERROR_CODE_UNKNOWN_SIMULATOR, "adder")


def test_a_refused_open_can_be_sent_again_on_the_same_stream(channel):
    stream = RawStream(channel)
    assert stream.ask(opening("nothing")).HasField("error")
    assert stream.ask(opening(CARTPOLE)).HasField("opened")
    assert stream.ask(pb.SimRequest(sequence=2, close=pb.Close())).HasField("closed")


def test_unknown_option(channel):
    options = pb.Options(values={"sutton_bartho_reward": value(np.array([1]))})
    reply = RawStream(channel).ask(opening(CARTPOLE, options=options))
    assert_error(reply, pb.ERROR_CODE_UNKNOWN_OPTION, "did you mean 'sutton_barto_reward'?")
    assert reply.error.subject == "sutton_bartho_reward"


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.array([7]), pb.ERROR_CODE_INVALID_OPTION),
        (np.array([0.5]), pb.ERROR_CODE_INVALID_TENSOR),
        (np.array([1, 1]), pb.ERROR_CODE_INVALID_TENSOR),
    ],
)
def test_option_outside_its_space(channel, array, code):
    options = pb.Options(values={"sutton_barto_reward": value(array)})
    assert_error(RawStream(channel).ask(opening(CARTPOLE, options=options)), code)


def test_an_option_fixed_at_opening_is_refused_in_a_reset(channel):
    stream = running(channel)
    options = pb.Options(values={"sutton_barto_reward": value(np.array([1]))})
    reply = stream.ask(reset(3, options=options))
    assert_error(reply, pb.ERROR_CODE_INVALID_OPTION, "when opening")
    finish(stream, 4)


@pytest.mark.parametrize(
    ("leaves", "code"),
    [
        pytest.param([np.zeros(2, np.int32)], pb.ERROR_CODE_INVALID_TENSOR, id="dtype"),
        pytest.param([np.zeros(2)], pb.ERROR_CODE_INVALID_TENSOR, id="float"),
        pytest.param([np.zeros(3, np.int64)], pb.ERROR_CODE_INVALID_TENSOR, id="rows"),
        pytest.param([np.zeros((2, 1), np.int64)], pb.ERROR_CODE_INVALID_TENSOR, id="shape"),
        pytest.param([], pb.ERROR_CODE_INVALID_TENSOR, id="no tensor"),
        pytest.param([np.zeros(2, np.int64)] * 2, pb.ERROR_CODE_INVALID_TENSOR, id="two tensors"),
        pytest.param([np.array([0, 2])], pb.ERROR_CODE_INVALID_ACTION, id="out of space"),
        pytest.param([np.array([-1, 0])], pb.ERROR_CODE_INVALID_ACTION, id="negative"),
        pytest.param(
            [tensor_pb2.Tensor(dtype=9, shape=[2], data=b"\0" * 15)],
            pb.ERROR_CODE_INVALID_TENSOR,
            id="truncated bytes",
        ),
        pytest.param(
            [tensor_pb2.Tensor(dtype=9, shape=[-2], data=b"")],
            pb.ERROR_CODE_INVALID_TENSOR,
            id="negative shape",
        ),
        pytest.param(
            [tensor_pb2.Tensor(dtype=99, shape=[2], data=b"\0" * 16)],
            pb.ERROR_CODE_INVALID_TENSOR,
            id="no such dtype",
        ),
    ],
)
def test_bad_actions(channel, leaves, code):
    stream = running(channel)
    before = stream.ask(step(3, np.zeros(2, np.int64))).batch
    reply = stream.ask(step(4, *leaves))
    assert_error(reply, code)
    assert reply.error.subject == "groups[0].actions"
    after = stream.ask(step(5, np.zeros(2, np.int64))).batch
    velocity = [tensors.unpack(b.groups[0].observation.tensors[0])[:, 1] for b in (before, after)]
    assert np.allclose(velocity[1] - velocity[0], -0.195, atol=0.01), "one step between, not two"
    finish(stream, 6)


def test_actions_for_the_wrong_number_of_groups(channel):
    stream = running(channel)
    assert_error(
        stream.ask(pb.SimRequest(sequence=3, step=pb.Step())), pb.ERROR_CODE_INVALID_ACTION
    )
    finish(stream, 4)


@pytest.mark.parametrize("index", [[2], [0, 0], [1, 0], [4294967295], []])
def test_environments_that_there_are_not(channel, index):
    stream = running(channel)
    rows = tensor_pb2.Rows(index=index)
    reply = stream.ask(step(3, np.zeros(len(index), np.int64), environments=rows))
    assert_error(reply, pb.ERROR_CODE_INVALID_ARGUMENT, "environments")
    finish(stream, 4)


def test_too_few_seeds(channel):
    stream = running(channel)
    assert_error(stream.ask(reset(3, seeds=[1])), pb.ERROR_CODE_INVALID_ARGUMENT, "seeds")
    finish(stream, 4)


def test_oversized_message(channel):
    stream = running(channel)
    stream.send(step(3, np.zeros(100_000, np.int64)))
    assert stream.status() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_bytes_that_are_no_request(channel):
    stream = running(channel)
    stream.send(b"\xff\xff\xff")
    assert stream.status() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_request_without_content(channel):
    stream = running(channel)
    assert_error(stream.ask(pb.SimRequest(sequence=3)), pb.ERROR_CODE_PROTOCOL)
    finish(stream, 4)


@pytest.mark.parametrize("version", ["", "2.0", "0.9", "nonsense"])
def test_wrong_protocol_version(channel, version):
    reply = RawStream(channel).ask(opening(CARTPOLE, protocol_version=version))
    assert_error(reply, pb.ERROR_CODE_PROTOCOL_VERSION, "1.0", version)


def test_a_later_minor_version_is_understood(channel):
    stream = RawStream(channel)
    assert stream.ask(opening(CARTPOLE, protocol_version="1.7")).HasField("opened")
    assert stream.ask(pb.SimRequest(sequence=2, close=pb.Close())).HasField("closed")


def test_describe_refuses_another_major_version(channel):
    stub = simulator_pb2_grpc.SimulatorStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Describe(pb.DescribeRequest(protocol_version="2.0"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    names = [s.name for s in stub.Describe(pb.DescribeRequest()).simulators]
    assert names == [CARTPOLE, "adder"]


def test_resume_with_a_foreign_token(channel):
    stream = RawStream(channel)
    request = pb.SimRequest(resume=pb.Resume(session_token="guess", protocol_version="1.0"))
    assert_error(stream.ask(request), pb.ERROR_CODE_SESSION_LOST, "Open a new one")


def test_step_before_open_and_before_reset(channel):
    stream = RawStream(channel)
    action = np.zeros(2, np.int64)
    assert_error(stream.ask(step(1, action)), pb.ERROR_CODE_PROTOCOL, "'open'")
    assert stream.ask(opening(CARTPOLE)).HasField("opened")
    assert_error(stream.ask(step(2, action)), pb.ERROR_CODE_PROTOCOL, "reset")
    assert stream.ask(reset(3)).HasField("batch")
    finish(stream, 4)


def test_open_twice(channel):
    stream = running(channel)
    again = opening(CARTPOLE)
    again.sequence = 3
    assert_error(stream.ask(again), pb.ERROR_CODE_PROTOCOL, "open already")
    finish(stream, 4)


def test_two_different_requests_with_one_sequence_number(channel):
    stream = running(channel)
    first = stream.ask(step(3, np.array([0, 0])))
    assert_error(stream.ask(step(3, np.array([1, 1]))), pb.ERROR_CODE_SEQUENCE, "use number 4")
    assert stream.ask(step(3, np.array([0, 0]))) == first, "the same request gets its reply again"
    finish(stream, 4)


def test_a_gap_and_a_forgotten_number(channel):
    stream = running(channel)
    assert_error(stream.ask(step(9, np.zeros(2, np.int64))), pb.ERROR_CODE_SEQUENCE, "before 3")
    for sequence in range(3, 23):
        assert stream.ask(step(sequence, np.zeros(2, np.int64))).HasField("batch")
    assert_error(stream.ask(step(3, np.zeros(2, np.int64))), pb.ERROR_CODE_SEQUENCE, "forgotten")
    finish(stream, 23)


@pytest.mark.parametrize(
    "request_",
    [
        pb.SimRequest(sequence=3, render=pb.Render()),
        pb.SimRequest(sequence=3, save_state=pb.SaveState()),
        pb.SimRequest(sequence=3, load_state=pb.LoadState(states=[b"", b""])),
    ],
    ids=["render", "save_state", "load_state"],
)
def test_what_the_simulator_does_not_offer(channel, request_):
    stream = running(channel)
    assert_error(stream.ask(request_), pb.ERROR_CODE_UNSUPPORTED)
    finish(stream, 4)


def test_a_render_mode_that_there_is_not(channel):
    reply = RawStream(channel).ask(opening("adder", render_mode="rgb_array"))
    assert_error(reply, pb.ERROR_CODE_UNSUPPORTED, "rgb_array")


def test_a_state_of_something_else(channel):
    stream = RawStream(channel)
    assert stream.ask(opening("adder")).HasField("opened")
    assert stream.ask(reset(2)).HasField("batch")
    load = pb.SimRequest(sequence=3, load_state=pb.LoadState(states=[b"junk", b"junk"]))
    assert_error(stream.ask(load), pb.ERROR_CODE_INVALID_ARGUMENT)
    states = stream.ask(pb.SimRequest(sequence=4, save_state=pb.SaveState())).states.states
    load = pb.SimRequest(sequence=5, load_state=pb.LoadState(states=states))
    assert stream.ask(load).HasField("batch")
    assert stream.ask(pb.SimRequest(sequence=6, close=pb.Close())).HasField("closed")


@pytest.mark.parametrize(("count", "words"), [(0, "at least one"), (51, "--max-environments")])
def test_too_few_or_too_many_environments(channel, count, words):
    code = pb.ERROR_CODE_LIMIT if count else pb.ERROR_CODE_INVALID_ARGUMENT
    assert_error(RawStream(channel).ask(opening(CARTPOLE, count)), code, words)


def test_too_many_sessions_and_leases_that_run_out():
    with (
        serving(CARTPOLE, "--max-sessions", "3", "--lease-seconds", "1") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        taken = [RawStream(channel) for _ in range(3)]
        for stream in taken:
            assert stream.ask(opening()).HasField("opened")
        refused = RawStream(channel)
        assert_error(refused.ask(opening()), pb.ERROR_CODE_LIMIT, "--max-sessions")
        for stream in taken:
            stream.cut()
        # The leases of one second run out, which frees the three.
        reply = refused.ask(opening())
        while reply.HasField("error"):
            assert_error(reply, pb.ERROR_CODE_LIMIT)
            reply = refused.ask(opening())
        assert reply.HasField("opened")
        assert refused.ask(pb.SimRequest(sequence=2, close=pb.Close())).HasField("closed")


def test_wrong_token_and_no_token(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("sesame\n")
    with (
        serving("adder", "--token-file", str(token)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        for metadata in (None, [("authorization", "Bearer guess")]):
            stream = RawStream(channel, metadata)
            stream.send(opening("adder"))
            assert stream.status() is grpc.StatusCode.UNAUTHENTICATED
        describe = simulator_pb2_grpc.SimulatorStub(channel).Describe
        with pytest.raises(grpc.RpcError) as caught:
            describe(pb.DescribeRequest())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "--token-file" in caught.value.details()
        stream = RawStream(channel, [("authorization", "Bearer sesame")])
        assert stream.ask(opening("adder")).HasField("opened")
        assert stream.ask(pb.SimRequest(sequence=2, close=pb.Close())).HasField("closed")
