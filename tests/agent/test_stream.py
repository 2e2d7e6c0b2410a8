"""What a client makes of a server that breaks its word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from agent.session import Session
from farsim import spaces, tensors
from farsim.errors import FarsimError, InvalidTensor, ProtocolError, ProtocolVersionError
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

GROUP = pb.Group(
    name="agents",
    agents=["agent"],
    observation_space=spaces.to_proto(Box(0, 100, (), np.int64)),
    action_space=spaces.to_proto(Discrete(2)),
)

#: What the server sends for the n-th step, given its right reply.
Answer = Callable[[pb.SimReply], list[pb.SimReply | bytes]]


class Faithless:
    """Serves one environment whose observation is its number of steps, and answers as told."""

    def __init__(self, answer: Answer, version: str = "1.0") -> None:
        self.answer, self.version = answer, version

    def describe(self, request: pb.DescribeRequest, _: object) -> pb.DescribeReply:
        simulator = pb.SimulatorDescription(name="counter", groups=[GROUP])
        return pb.DescribeReply(protocol_version=self.version, simulators=[simulator])

    def run(self, requests: Iterator[bytes], _: object) -> Iterator[bytes]:
        steps = 0
        for raw in requests:
            request = pb.SimRequest.FromString(raw)
            reply = pb.SimReply(sequence=request.sequence)
            replies: list[pb.SimReply | bytes] = [reply]
            if request.HasField("open"):
                reply.opened.CopyFrom(
                    pb.Opened(session_token="t", groups=[GROUP], heartbeat_seconds=5)
                )
            elif request.HasField("close"):
                reply.closed.SetInParent()
            else:
                group = reply.batch.groups.add()
                observation = tensors.pack(np.array([steps]))
                group.observation.CopyFrom(tensor_pb2.Value(tensors=[observation]))
                if request.HasField("step"):
                    steps += 1
                    group.observation.tensors[0].CopyFrom(tensors.pack(np.array([steps])))
                    group.reward.CopyFrom(tensors.pack(np.zeros(1)))
                    group.terminated.CopyFrom(tensors.pack(np.zeros(1, np.bool_)))
                    group.truncated.CopyFrom(tensors.pack(np.zeros(1, np.bool_)))
                    replies = self.answer(reply)
            for one in replies:
                yield one if isinstance(one, bytes) else one.SerializeToString()


@contextmanager
def session_with(answer: Answer, version: str = "1.0") -> Iterator[Session]:
    faithless = Faithless(answer, version)
    handlers = {
        "Describe": grpc.unary_unary_rpc_method_handler(
            faithless.describe,
            pb.DescribeRequest.FromString,
            pb.DescribeReply.SerializeToString,
        ),
        "Run": grpc.stream_stream_rpc_method_handler(faithless.run),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("farsim.v1.Simulator", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Session.open(f"127.0.0.1:{port}") as session:
            session.reset()
            yield session
    finally:
        server.stop(None).wait()


def step(session: Session) -> int:
    return int(session.step([np.array([0])]).groups[0].observation[0])


def test_a_faithful_server() -> None:
    with session_with(lambda reply: [reply]) as session:
        assert [step(session) for _ in range(3)] == [1, 2, 3]


def in_another_order(reply: pb.SimReply) -> bytes:
    number = pb.SimReply(sequence=reply.sequence).SerializeToString()
    reply.ClearField("sequence")
    return reply.SerializeToString() + number


def with_more_in_it(reply: pb.SimReply) -> bytes:
    """Fields that a later minor version may have, in the group, the batch and the reply."""
    unknown = b"\xaa\x06\x03abc"  # Number 101.
    group = reply.batch.groups[0].SerializeToString() + unknown
    batch = b"\x12" + bytes([len(group)]) + group + unknown
    number = pb.SimReply(sequence=reply.sequence).SerializeToString()
    return number + b"\x22" + bytes([len(batch)]) + batch + unknown


def with_all_spelt_out(reply: pb.SimReply) -> bytes:
    """What a server may leave out, and this one's does."""
    reply.batch.environments.index.append(0)
    reply.batch.groups[0].rows.index.append(0)
    reply.batch.groups[0].acting.index.append(0)
    reply.timing.simulator_seconds = 1.0
    return reply.SerializeToString()


@pytest.mark.parametrize("write", [in_another_order, with_more_in_it, with_all_spelt_out])
def test_replies_may_be_written_in_any_way(write: Callable[[pb.SimReply], bytes]) -> None:
    with session_with(lambda reply: [write(reply)]) as session:
        assert [step(session) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    "batch", [b"\x12\x7f", b"\xff\xff", b"\x12\x02\x12\x7f"], ids=["short", "none", "inside"]
)
def test_a_batch_that_is_none_ends_the_session(batch: bytes) -> None:
    def answer(reply: pb.SimReply) -> list[pb.SimReply | bytes]:
        number = pb.SimReply(sequence=reply.sequence).SerializeToString()
        return [number + b"\x22" + bytes([len(batch)]) + batch]

    with session_with(answer) as session:
        with pytest.raises(ProtocolError, match="no SimReply"):
            step(session)
        assert isinstance(session.failure, ProtocolError)


def test_what_comes_twice_in_a_message_is_read_as_protobuf_says() -> None:
    def answer(reply: pb.SimReply) -> list[pb.SimReply | bytes]:
        again = pb.GroupBatch(reward=tensors.pack(np.array([7.0])))
        group = reply.batch.groups[0].SerializeToString() + again.SerializeToString()
        batch = b"\x12" + bytes([len(group)]) + group
        number = pb.SimReply(sequence=reply.sequence).SerializeToString()
        return [number + b"\x22" + bytes([len(batch)]) + batch]

    # Of two tensors in one field the later one's data counts, and shapes follow one another.
    with session_with(answer) as session, pytest.raises(InvalidTensor, match=r"float64 \[1, 1\]"):
        step(session)


def test_repeated_replies_are_passed_over() -> None:
    before: list[pb.SimReply] = []

    def answer(reply: pb.SimReply) -> list[pb.SimReply | bytes]:
        before.append(reply)
        return [*before[:-1], reply, reply]

    with session_with(answer) as session:
        assert [step(session) for _ in range(3)] == [1, 2, 3]


def test_heartbeats_and_notices_are_no_replies() -> None:
    def answer(reply: pb.SimReply) -> list[pb.SimReply | bytes]:
        heartbeat = pb.SimReply(sequence=reply.sequence, heartbeat=pb.Heartbeat(elapsed_seconds=1))
        return [heartbeat, heartbeat, reply, pb.SimReply(draining=pb.Draining(grace_seconds=1))]

    with session_with(answer) as session:
        assert [step(session) for _ in range(3)] == [1, 2, 3]


def numbered(reply: pb.SimReply, sequence: int) -> pb.SimReply:
    changed = pb.SimReply()
    changed.CopyFrom(reply)
    changed.sequence = sequence
    return changed


def with_rows(reply: pb.SimReply, *index: int) -> pb.SimReply:
    reply.batch.groups[0].rows.index.extend(index)
    return reply


def with_observation(reply: pb.SimReply, array: np.ndarray) -> pb.SimReply:
    reply.batch.groups[0].observation.tensors[0].CopyFrom(tensors.pack(array))
    return reply


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            lambda reply: [numbered(reply, 4)],
            ProtocolError,
            "numbered 4, where a reply to request 3",
        ),
        (
            lambda reply: [numbered(reply, 0)],
            ProtocolError,
            "numbered 0, where a reply to request 3",
        ),
        (lambda _: [b"\xff\xff"], ProtocolError, "bytes that are no SimReply"),
        (lambda _: [pb.SimReply(sequence=3)], ProtocolError, "bytes that are no SimReply"),
        (
            lambda _: [pb.SimReply(sequence=3, closed=pb.Closed())],
            ProtocolError,
            "answered step with 'closed', not 'batch'",
        ),
        (
            lambda _: [pb.SimReply(sequence=3, batch=pb.Batch())],
            ProtocolError,
            "a reply about 0 of 1 groups",
        ),
        (lambda reply: [with_rows(reply, 7)], ProtocolError, r"rows of group 'agents': \[7\]"),
        (lambda reply: [with_observation(reply, np.zeros(2, np.int64))], InvalidTensor, "2"),
        (lambda reply: [with_observation(reply, np.zeros(1))], InvalidTensor, "float64"),
    ],
)
def test_what_makes_no_sense_ends_the_session(
    answer: Answer, error: type[FarsimError], message: str
) -> None:
    with session_with(answer) as session:
        with pytest.raises(error, match=message):
            step(session)
        with pytest.raises(error, match=message):
            step(session)


def test_another_major_version_is_refused() -> None:
    with (
        pytest.raises(ProtocolVersionError, match=r"speaks version '2\.1' of farsim.v1"),
        session_with(lambda reply: [reply], "2.1"),
    ):
        pass
    with session_with(lambda reply: [reply], "1.9") as session:
        assert step(session) == 1
