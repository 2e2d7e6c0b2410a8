"""What one round trip costs: a ``Session`` with ``farsim serve``, beside a plain gRPC stream.

    python benchmarks/round_trip.py
    python benchmarks/round_trip.py --environments 32 --in-flight 1 --seconds 10

The simulator costs nothing, so what is measured is the wire and what each side does around it. The
plain stream is what one would write by hand: the same actions there and the same observations,
rewards and ends back, as bare bytes that nobody numbers, checks, keeps or waits for with a limit.
Both take turns in one run, and wait for the network in the same way (``farsim.polling``), unless
``GRPC_EXPERIMENTS`` is set. Times are wall-clock and CPU microseconds of one round trip, medians
over the turns; the ratio is ours to the plain one's.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from farsim import polling

polling.settle()

import grpc
import numpy as np
import psutil
from gymnasium.spaces import Box, Discrete
from rich.console import Console
from rich.table import Table

from farsim.channel import ConnectionOptions, open_channel
from farsim.serving import channel_options
from simserver.simulator import Batch, BatchSimulator, Group, GroupBatch

NUMBERS = Box(-10.0, 10.0, (4,), np.float32)
PICTURE = Box(0, 255, (84, 84, 4), np.uint8)
MAX_MESSAGE_BYTES = ConnectionOptions().max_message_bytes
WARM_UP = 50
#: How many turns each of the two has.
TURNS = 9


class Free(BatchSimulator):
    """Returns the same four numbers for each environment, at once and for ever."""

    observed = NUMBERS

    def __init__(self, num_envs: int, **options: Any) -> None:
        self.groups = (Group(self.observed, Discrete(2)),)
        self._observation = np.zeros((num_envs, *self.observed.shape), self.observed.dtype)
        self._reward = np.ones(num_envs)
        self._flags = np.zeros(num_envs, np.bool_)

    def reset(self, envs: Any, seeds: Any, options: Any) -> Batch:
        return Batch([GroupBatch(self._observation[envs])], started=envs)

    def step(self, envs: Any, actions: Any) -> Batch:
        return Batch([GroupBatch(self._observation, self._reward, self._flags, self._flags)])


class FreePictures(Free):
    """The same with pictures as Atari's are stacked."""

    observed = PICTURE


# -- the plain stream -------------------------------------------------------------------------


def serve_plain(port_file: str) -> None:
    """What one would write by hand."""

    def run(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        kind, count = next(requests).split()
        space = PICTURE if kind == b"pictures" else NUMBERS
        observation = np.zeros((int(count), *space.shape), space.dtype)
        reward, flags = np.ones(int(count)), np.zeros(int(count), np.bool_)
        yield b""
        for request in requests:
            np.frombuffer(request, np.int64)
            yield b"".join((observation, reward, flags, flags))

    server = grpc.server(futures.ThreadPoolExecutor(4), options=channel_options(MAX_MESSAGE_BYTES))
    handlers = {"Run": grpc.stream_stream_rpc_method_handler(run)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("plain", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    unfinished = Path(f"{port_file}.new")
    unfinished.write_text(f"127.0.0.1:{port}")
    unfinished.rename(port_file)
    server.wait_for_termination()


class Plain:
    """A client of the plain stream."""

    def __init__(self, address: str, pictures: bool, environments: int) -> None:
        self._space = PICTURE if pictures else NUMBERS
        self._shape = (environments, *self._space.shape)
        self._actions = np.zeros(environments, np.int64)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._channel = open_channel(address, ConnectionOptions())
        self._call = self._channel.stream_stream("/plain/Run")(iter(self._outbox.get, None))
        self._outbox.put(b"%s %d" % (b"pictures" if pictures else b"numbers", environments))
        next(self._call)

    def send(self) -> None:
        self._outbox.put(self._actions.tobytes())

    def receive(self) -> None:
        reply, count = next(self._call), self._shape[0]
        observation = np.ndarray(self._shape, self._space.dtype, reply)
        at = observation.nbytes
        np.frombuffer(reply, np.float64, count, at)
        np.frombuffer(reply, np.bool_, count, at + 8 * count)
        np.frombuffer(reply, np.bool_, count, at + 9 * count)

    def close(self) -> None:
        self._outbox.put(None)
        self._channel.close()


# -- ours -------------------------------------------------------------------------------------


class Ours:
    """A client of ``farsim serve``."""

    def __init__(self, address: str, pictures: bool, environments: int) -> None:
        from agent.session import Session

        name = "FreePictures" if pictures else "Free"
        self._session = Session.open(address, f"round_trip:{name}", environments)
        self._session.reset()
        self._actions = (np.zeros(environments, np.int64),)
        self._pending: list[Any] = []

    def send(self) -> None:
        self._pending.append(self._session.send_step(self._actions))

    def receive(self) -> None:
        self._session.receive(self._pending.pop(0))

    def close(self) -> None:
        self._session.close()


# -- measuring --------------------------------------------------------------------------------


@contextmanager
def running(command: list[str], option: str) -> Iterator[tuple[psutil.Process, str]]:
    """A server process and its address, which it writes to the file that ``option`` names."""
    with tempfile.TemporaryDirectory(prefix="round-trip-") as folder:
        port_file = Path(folder, "port")
        process = subprocess.Popen(
            [sys.executable, *command, option, str(port_file)], cwd=Path(__file__).parent
        )
        try:
            while not port_file.exists():
                if process.poll() is not None:
                    raise SystemExit(f"{command[0]} did not start")
                time.sleep(0.05)
            yield psutil.Process(process.pid), port_file.read_text().strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def turn(
    client: Plain | Ours, server: psutil.Process, in_flight: int, seconds: float
) -> list[float]:
    """Microseconds of a round trip: by the clock, and of CPU time in client and server."""
    for _ in range(in_flight):
        client.send()
    for _ in range(WARM_UP):
        client.receive()
        client.send()
    before = sum(server.cpu_times()[:2]), time.process_time(), time.perf_counter()
    count = 0
    while time.perf_counter() - before[2] < seconds:
        for _ in range(20):
            client.receive()
            client.send()
        count += 20
    after = sum(server.cpu_times()[:2]), time.process_time(), time.perf_counter()
    for _ in range(in_flight):
        client.receive()
    spent = [(end - start) / count * 1e6 for start, end in zip(before, after, strict=True)]
    return [spent[2], spent[1], spent[0]]


def compare(
    clients: list[tuple[Plain | Ours, psutil.Process]], in_flight: int, seconds: float
) -> list[list[float]]:
    turns: list[list[list[float]]] = [[] for _ in clients]
    for _ in range(TURNS):
        for found, (client, server) in zip(turns, clients, strict=True):
            found.append(turn(client, server, in_flight, seconds / TURNS))
    return [[statistics.median(column) for column in zip(*found, strict=True)] for found in turns]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each of the two in a row")
    parser.add_argument("--serve-plain", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_plain:
        serve_plain(arguments.serve_plain)
        return
    table = Table(title="microseconds of a round trip, and of CPU time in client and server")
    table.add_column("environments")
    for name in ("in flight", "plain", "client", "server", "ours", "client", "server"):
        table.add_column(name, justify="right")
    table.add_column("ratio", justify="right", style="bold")
    cases = [(False, count) for count in arguments.environments] + [(True, 32)]
    with ExitStack() as stack:
        plain = stack.enter_context(running(["round_trip.py"], "--serve-plain"))
        serve = ["-m", "farsim", "serve", "round_trip:Free", "round_trip:FreePictures"]
        serve += ["--address", "127.0.0.1:0", "--exit-with-parent", str(os.getpid())]
        ours = stack.enter_context(running(serve, "--port-file"))
        kinds: list[tuple[Callable[..., Plain | Ours], tuple[psutil.Process, str]]]
        kinds = [(Plain, plain), (Ours, ours)]
        for pictures, count in cases:
            for in_flight in arguments.in_flight:
                clients = [
                    (kind(address, pictures, count), process) for kind, (process, address) in kinds
                ]
                by_hand, by_session = compare(clients, in_flight, arguments.seconds)
                for client, _ in clients:
                    client.close()
                name = f"{count}, 84x84x4 bytes" if pictures else str(count)
                figures = [f"{figure:.0f}" for figure in (*by_hand, *by_session)]
                ratio = f"{by_session[0] / by_hand[0]:.2f}"
                table.add_row(name, str(in_flight), *figures, ratio)
    Console().print(table)


if __name__ == "__main__":
    main()
