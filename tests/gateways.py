"""Gateways for tests, and simulator servers that dial in: processes of their own."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import simulator_pb2_grpc
from tests.forked import Forked
from tests.servers import ROOT, started


@dataclass
class Running:
    """A process of ``farsim``.

    Attributes:
        process: for signals.
        log: what it printed so far.
    """

    process: subprocess.Popen[bytes] | Forked
    log: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Waits until it has printed ``text`` so often."""
        deadline = time.monotonic() + 60
        while self.log.read_text().count(text) < times:
            assert time.monotonic() < deadline, f"no '{text}' in:\n{self.log.read_text()}"
            time.sleep(0.02)


@dataclass
class Gatekeeper(Running):
    """A running gateway.

    Attributes:
        listens_at: where simulators dial in.
        address: where clients find them.
    """

    listens_at: str
    address: str

    def describe(self) -> pb.DescribeReply:
        with grpc.insecure_channel(self.address) as channel:
            return simulator_pb2_grpc.SimulatorStub(channel).Describe(
                pb.DescribeRequest(), timeout=30
            )

    def wait_for_seats(self, seats: int) -> None:
        """Waits until so many are attached together."""
        deadline = time.monotonic() + 60
        while (found := self.describe().limits.max_sessions) != seats:
            assert time.monotonic() < deadline, (
                f"{found} seats, not {seats}:\n{self.log.read_text()}"
            )
            time.sleep(0.05)


@contextmanager
def gateway(
    *arguments: str, listen: str = "127.0.0.1:0", address: str = "127.0.0.1:0"
) -> Iterator[Gatekeeper]:
    """Runs ``farsim gateway attach``; at the end stops it, and checks that it ended well."""
    with tempfile.TemporaryDirectory(prefix="farsim-test-") as temporary:
        ports = Path(temporary, "ports")
        command = ["gateway", "attach", "--listen", listen, "--address", address, *arguments]
        command += ["--port-file", str(ports)]
        with _running(command, Path(temporary, "log")) as (process, log):
            deadline = time.monotonic() + 60
            while not ports.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the gateway did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield Gatekeeper(process, log, *ports.read_text().split())


@contextmanager
def dialling(head: str, *arguments: str, inside: Sequence[str] = ()) -> Iterator[Running]:
    """Runs ``farsim serve ... --attach head``; at the end stops it, and checks that it drained.

    Args:
        head: the gateway's address.
        arguments: what to serve, and options.
        inside: a command that runs the rest of its arguments, as ``ip netns exec NAME`` does.
    """
    with tempfile.TemporaryDirectory(prefix="farsim-test-") as temporary:
        command = ["serve", *arguments, "--attach", head]
        with _running(command, Path(temporary, "log"), inside) as (process, log):
            yield Running(process, log)


@contextmanager
def _running(
    arguments: Sequence[str], log: Path, inside: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[bytes] | Forked, Path]]:
    # Gateways load something else than servers do.
    process = started(arguments, ROOT, log, inside, anew=arguments[0] != "serve")
    try:
        yield process, log
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
            assert code == 0, f"{arguments[0]} ended with {code}:\n{log.read_text()}"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)
