"""Envelopes are what protobuf would make of them."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from farsim.envelope import peek, seal, unseal
from farsim.v1 import gateway_pb2, tensor_pb2
from farsim.v1 import simulator_pb2 as pb

REPLIES = [
    (pb.SimReply(), 0),
    (pb.SimReply(sequence=3, closed=pb.Closed()), pb.SimReply.CLOSED_FIELD_NUMBER),
    (pb.SimReply(draining=pb.Draining(grace_seconds=2)), pb.SimReply.DRAINING_FIELD_NUMBER),
    (
        pb.SimReply(sequence=2**40, heartbeat=pb.Heartbeat(elapsed_seconds=1)),
        pb.SimReply.HEARTBEAT_FIELD_NUMBER,
    ),
    (
        pb.SimReply(
            sequence=300,
            batch=pb.Batch(
                groups=[pb.GroupBatch(reward=tensor_pb2.Tensor(shape=[9], data=bytes(70000)))]
            ),
        ),
        pb.SimReply.BATCH_FIELD_NUMBER,
    ),
]


@pytest.mark.parametrize(("reply", "kind"), REPLIES)
def test_a_reply(reply: pb.SimReply, kind: int) -> None:
    raw = reply.SerializeToString()
    envelope = gateway_pb2.FromSimulator(reply=reply).SerializeToString()
    assert seal(raw) == envelope
    assert unseal(gateway_pb2.FromSimulator, envelope) == raw
    assert peek(raw) == (reply.sequence, kind)


def test_what_is_no_reply_is_the_envelope_itself() -> None:
    hello = gateway_pb2.FromSimulator(hello=gateway_pb2.AttachHello(server_id="a", seats=1))
    assert unseal(gateway_pb2.FromSimulator, hello.SerializeToString()) == hello


def test_an_envelope_of_another_shape_is_read_too() -> None:
    """A request in two parts, which protobuf takes together."""
    parts = [pb.SimRequest(sequence=7), pb.SimRequest(close=pb.Close())]
    raw = b"".join(seal(part.SerializeToString()) for part in parts)
    found = unseal(gateway_pb2.ToSimulator, raw)
    assert isinstance(found, bytes)
    assert pb.SimRequest.FromString(found) == pb.SimRequest(sequence=7, close=pb.Close())


@given(st.binary(max_size=30))
def test_any_bytes(raw: bytes) -> None:
    sequence, kind = peek(raw)
    assert sequence >= 0 and kind >= 0
    try:
        unseal(gateway_pb2.FromSimulator, raw)
    except DecodeError:
        with pytest.raises(DecodeError):
            gateway_pb2.FromSimulator.FromString(raw)
