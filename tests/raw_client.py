"""A client that speaks the contract by hand, to say things that the real client never would."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np

from farsim import tensors
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2


class RawStream:
    """One call of ``Run``; sends whatever it is told to, bytes included.

    Args:
        channel: to the server; the caller closes it.
        metadata: of the call.
    """

    def __init__(self, channel: grpc.Channel, metadata: Any = None) -> None:
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = channel.stream_stream("/farsim.v1.Simulator/Run")(
            iter(self._outbox.get, None), metadata=metadata, timeout=60
        )
        self.replies: Iterator[pb.SimReply] = map(pb.SimReply.FromString, self._call)

    def send(self, request: pb.SimRequest | bytes) -> None:
        self._outbox.put(request if isinstance(request, bytes) else request.SerializeToString())

    def ask(self, request: pb.SimRequest | bytes) -> pb.SimReply:
        """Sends a request and returns the next reply; heartbeats are passed over."""
        self.send(request)
        return self.receive()

    def receive(self) -> pb.SimReply:
        for reply in self.replies:
            if not reply.HasField("heartbeat"):
                return reply
        raise EOFError("the server ended the stream")

    def cut(self) -> None:
        """Breaks the stream without a word."""
        self._call.cancel()
        self._outbox.put(None)

    def end(self) -> None:
        """Half-closes, as a client that has nothing more to say."""
        self._outbox.put(None)

    def status(self) -> grpc.StatusCode:
        """Reads on until the stream ends, and returns how."""
        try:
            for _ in self.replies:
                pass
        except grpc.RpcError:
            pass
        return self._call.code()


def opening(simulator: str = "", num_environments: int = 2, **fields: Any) -> pb.SimRequest:
    fields.setdefault("protocol_version", "1.0")
    return pb.SimRequest(
        sequence=1,
        open=pb.Open(simulator=simulator, num_environments=num_environments, **fields),
    )


def reset(sequence: int, **fields: Any) -> pb.SimRequest:
    return pb.SimRequest(sequence=sequence, reset=pb.Reset(**fields))


def step(sequence: int, *leaves: np.ndarray | tensor_pb2.Tensor, **fields: Any) -> pb.SimRequest:
    """A step with the tensors of one group's actions."""
    packed = [x if isinstance(x, tensor_pb2.Tensor) else tensors.pack(x) for x in leaves]
    actions = pb.GroupActions(actions=tensor_pb2.Value(tensors=packed))
    return pb.SimRequest(sequence=sequence, step=pb.Step(groups=[actions], **fields))
