"""What a dialler in any language may rely on: the stream of ``Attach`` by itself."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import pytest

from agent.session import Session
from farsim.v1 import gateway_pb2 as pb
from farsim.v1 import simulator_pb2 as sim
from tests.gateways import Gatekeeper, gateway

OFFER = sim.DescribeReply(
    protocol_version="1.0", simulators=[sim.SimulatorDescription(name="mine")]
)


class Dialler:
    """One stream of ``Attach``."""

    def __init__(self, head: Gatekeeper, first: Any) -> None:
        self._channel = grpc.insecure_channel(head.listens_at)
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox.put(first)
        attach = self._channel.stream_stream(
            "/farsim.v1.SimulatorGateway/Attach",
            request_serializer=lambda message: (
                message if isinstance(message, bytes) else message.SerializeToString()
            ),
            response_deserializer=pb.ToSimulator.FromString,
        )
        self.call = attach(iter(self._outbox.get, None), timeout=30)

    def send(self, message: Any) -> None:
        self._outbox.put(message)

    def close(self) -> None:
        self._outbox.put(None)
        self._channel.close()


def hello(**changes: Any) -> pb.FromSimulator:
    fields = {"server_id": "one", "description": OFFER, "seats": 1, **changes}
    return pb.FromSimulator(hello=pb.AttachHello(**fields))


@pytest.fixture(scope="module")
def head() -> Iterator[Gatekeeper]:
    with gateway("--max-seats", "1", "--seat-seconds", "1") as running:
        yield running


@pytest.mark.parametrize(
    ("first", "status", "why"),
    [
        (b"\xff\xff", "INVALID_ARGUMENT", "the first message on this stream is 'hello'"),
        (pb.FromSimulator(reply=sim.SimReply()), "INVALID_ARGUMENT", "is 'hello'"),
        (hello(server_id=""), "INVALID_ARGUMENT", "has a server_id"),
        (hello(seats=0), "INVALID_ARGUMENT", "at least one seat"),
        (
            hello(
                description=sim.DescribeReply(protocol_version="2.0", simulators=OFFER.simulators)
            ),
            "FAILED_PRECONDITION",
            "the simulator server '2.0'",
        ),
    ],
)
def test_who_is_not_taken(head: Gatekeeper, first: Any, status: str, why: str) -> None:
    with closing(Dialler(head, first)) as dialler:
        with pytest.raises(grpc.RpcError):
            next(dialler.call)
        assert dialler.call.code().name == status
        assert why in dialler.call.details()


def test_a_seat_from_its_greeting_to_its_end(head: Gatekeeper) -> None:
    with closing(Dialler(head, hello())) as dialler:
        assert next(dialler.call).welcome.protocol_version == "1.0"
        with closing(Dialler(head, hello())) as another:
            with pytest.raises(grpc.RpcError):
                next(another.call)
            assert another.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        with grpc.insecure_channel(head.address) as channel:
            outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
            run = channel.stream_stream(
                "/farsim.v1.Simulator/Run",
                request_serializer=sim.SimRequest.SerializeToString,
                response_deserializer=sim.SimReply.FromString,
            )(iter(outbox.get, None), timeout=30)
            opening = sim.SimRequest(
                sequence=1, open=sim.Open(protocol_version="1.0", num_environments=2)
            )
            outbox.put(opening)
            # What the client asks comes as it is, and what is answered, too; but for the token,
            # by which the session is found again.
            assert next(dialler.call).request == opening
            opened = sim.SimReply(sequence=1, opened=sim.Opened(session_token="secret"))
            dialler.send(pb.FromSimulator(reply=opened))
            assert next(run).opened.session_token == "one.secret"
            beat = sim.SimReply(sequence=2, heartbeat=sim.Heartbeat(elapsed_seconds=1))
            dialler.send(pb.FromSimulator(reply=beat))
            assert next(run) == beat
            outbox.put(sim.SimRequest(sequence=2, close=sim.Close()))
            assert next(dialler.call).request.sequence == 2
            closed = sim.SimReply(sequence=2, closed=sim.Closed())
            dialler.send(pb.FromSimulator(reply=closed))
            # The end of Run is here the dialler's closing its side.
            dialler.send(None)
            assert next(run) == closed
            assert list(run) == []
            assert list(dialler.call) == []
            assert dialler.call.code() is grpc.StatusCode.OK
            outbox.put(None)


def test_a_reply_that_nobody_waits_for(head: Gatekeeper) -> None:
    with closing(Dialler(head, hello(server_id="two"))) as dialler:
        next(dialler.call)
        dialler.send(pb.FromSimulator(reply=sim.SimReply(sequence=1)))
        with pytest.raises(grpc.RpcError):
            next(dialler.call)
        assert dialler.call.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(Exception, match="no simulator server has dialled in"):
        Session.open(head.address)
