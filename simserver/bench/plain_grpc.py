"""A simulator behind gRPC as one writes it by hand: bytes there and back, and no check of them.

What is asked for is a number of a batch, one byte, and actions, int64. The answer is the bytes of
all arrays of ``LocalBatch.step``, one after the other.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from farsim.bench.turns import Lines, serve_until_left
from simserver.bench import local_batch
from simserver.bench.request import Request

#: Also for whole batches of images.
_UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class PlainServer:
    """The methods of ``/Plain``."""

    def __init__(self, request: Request) -> None:
        self._batches = request.batches()
        for number, batch in enumerate(self._batches):
            batch.reset(number * request.envs)

    def layout(self, request: bytes, context: Any) -> bytes:
        """JSON: of each batch, environments, rows and actions; dtypes and shapes of its answer."""
        told = []
        for batch in self._batches:
            arrays = batch.step(np.zeros(batch.rows, np.int64))
            told.append(
                {
                    "envs": batch.num_envs,
                    "rows": batch.rows,
                    "actions": batch.actions,
                    "arrays": local_batch.layout(arrays),
                }
            )
        return json.dumps(told).encode()

    def step(self, request: bytes, context: Any) -> bytes:
        """One step of one batch."""
        actions = np.frombuffer(request, np.int64, offset=1)
        arrays = self._batches[request[0]].step(actions)
        return b"".join([array.tobytes() for array in arrays])

    def stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """The same, for one request after the other."""
        for request in requests:
            yield self.step(request, context)

    def push(self, request: bytes, context: Any) -> Iterator[bytes]:
        """One answer again and again, for nothing: what the transport moves one way."""
        answer = self.step(request, context)
        yield from itertools.repeat(answer)


def main() -> None:
    """Serves until standard input ends."""
    lines = Lines()
    served = PlainServer(Request.of_command_line())
    methods = {
        "Layout": grpc.unary_unary_rpc_method_handler(served.layout),
        "Step": grpc.unary_unary_rpc_method_handler(served.step),
        "Stream": grpc.stream_stream_rpc_method_handler(served.stream),
        "Push": grpc.unary_stream_rpc_method_handler(served.push),
    }
    server = grpc.server(ThreadPoolExecutor(4), options=_UNBOUNDED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Plain", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    serve_until_left(lines, f"127.0.0.1:{port}")
    server.stop(None)


if __name__ == "__main__":
    main()
