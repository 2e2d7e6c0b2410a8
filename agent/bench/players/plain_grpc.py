"""gRPC as one writes it by hand, against ``simserver.bench.plain_grpc``; unary, stream or push."""

from __future__ import annotations

import json
import math
import queue
import sys
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from agent.bench.players.pipeline import Pipeline
from agent.bench.players.request import Chooser, Count, Request, payload
from farsim.bench.turns import Lines, Stride, take_turns

_UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class PlainBatch:
    """One batch of the server's: its requests, and what is in its answers.

    Args:
        number: of the batch.
        layout: what the server says of it.
    """

    def __init__(self, number: int, layout: dict[str, Any]) -> None:
        self._prefix = bytes([number])
        self._chooser = Chooser(layout["actions"], layout["rows"])
        self._count = Count(layout["envs"], layout["rows"])
        self._arrays: list[tuple[np.dtype[Any], list[int], int]] = []
        at = 0
        for text, shape in layout["arrays"]:
            dtype = np.dtype(text)
            self._arrays.append((dtype, shape, at))
            at += dtype.itemsize * math.prod(shape)
        self.payload = at + payload(layout["rows"]) - 10 * layout["rows"]

    def request(self) -> bytes:
        """Of a step with random actions."""
        return self._prefix + self._chooser.choose().tobytes()

    def read(self, answer: bytes) -> list[NDArray[Any]]:
        """The arrays in an answer."""
        return [
            np.frombuffer(answer, dtype, math.prod(shape), at).reshape(shape)
            for dtype, shape, at in self._arrays
        ]

    def take(self, answer: bytes) -> tuple[int, int]:
        """Environment steps in an answer, and bytes both ways."""
        _, terminated, truncated, *_ = self.read(answer)
        return self._count.steps(terminated, truncated), self.payload


class Plain:
    """A connection to the server.

    Args:
        address: ``host:port``.
    """

    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address, _UNBOUNDED)
        grpc.channel_ready_future(channel).result(60)
        layouts = json.loads(channel.unary_unary("/Plain/Layout")(b""))
        self._channel = channel
        self.batches = [PlainBatch(number, layout) for number, layout in enumerate(layouts)]

    def unary(self) -> Callable[[], Stride]:
        """A call for each step."""
        call = self._channel.unary_unary("/Plain/Step")
        (batch,) = self.batches
        return lambda: Stride(*batch.take(call(batch.request())))

    def stream(self) -> Pipeline:
        """One call, and a request of each batch on its way."""
        requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        answers = self._channel.stream_stream("/Plain/Stream")(iter(requests.get, None))
        return Pipeline(
            len(self.batches),
            lambda split: requests.put(self.batches[split].request()),
            lambda split: self.batches[split].take(next(answers)),
        )

    def push(self) -> Callable[[], Stride]:
        """Answers without requests, as fast as they come; no environment is stepped."""
        (batch,) = self.batches
        answers = self._channel.unary_stream("/Plain/Push")(batch.request())

        def stride() -> Stride:
            batch.read(next(answers))
            return Stride(0, batch.payload, 0.0)

        return stride


def main() -> None:
    """Plays; see ``farsim.bench.turns``. The second argument is how."""
    lines = Lines()
    plain = Plain(*Request.of_command_line().addresses)
    if sys.argv[2] == "stream":
        pipeline = plain.stream()
        take_turns(lines, pipeline.stride, pipeline.begin, pipeline.finish)
    else:
        take_turns(lines, plain.unary() if sys.argv[2] == "unary" else plain.push())


if __name__ == "__main__":
    main()
