"""Simulator servers on this machine, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from farsim.errors import InvalidArgument, ServerUnavailable
from farsim.protocol import SERVICE

#: How long a server may take to finish its requests and exit.
_STOP_SECONDS = 15.0

#: How much of what a server printed goes into an error message.
_LAST_LINES = 20


class LocalServers:
    """Runs ``farsim serve`` processes while the ``with`` block lasts.

        >>> with LocalServers("adder", count=2) as servers:  # doctest: +SKIP
        ...     env = RemoteVectorEnv(servers.addresses, num_envs=8)

    They listen on free ports of the loopback interface, and are the same program that serves from
    other machines. They stop whatever happens: when the block ends, when a server does not stop by
    itself (by SIGKILL), and when this process is killed (they notice).

    Args:
        simulators: one or several names, as ``farsim serve`` takes them.
        count: how many processes.
        options: defaults for the simulators' parameters; what JSON can say.
        arguments: more arguments for ``farsim serve``.
        start_seconds: how long they may take until they answer.

    Attributes:
        addresses: ``host:port`` of each, once they run.
    """

    def __init__(
        self,
        simulators: str | Sequence[str],
        count: int = 1,
        options: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
        start_seconds: float = 60.0,
    ) -> None:
        if count < 1:
            raise InvalidArgument(f"at least one server, not {count}", "count")
        self.addresses: list[str] = []
        self._count = count
        self._start_seconds = start_seconds
        names = [simulators] if isinstance(simulators, str) else list(simulators)
        self._arguments = [
            *names,
            # JSON is YAML, as which the server reads values.
            *(f"--option={name}={json.dumps(value)}" for name, value in (options or {}).items()),
            *arguments,
        ]
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """The processes' numbers, in the order of ``addresses``."""
        return [process.pid for process in self._processes]

    def start(self) -> list[str]:
        """Starts them all and waits until they answer; their addresses.

        Raises:
            ServerUnavailable: one ended, or did not answer in time; says what it printed last.
        """
        # Only while they start: then nothing is left behind, even if this process is killed.
        with tempfile.TemporaryDirectory(prefix="farsim-servers-") as folder:
            try:
                for number in range(self._count):
                    self._processes.append(self._start(Path(folder), number))
                until = time.monotonic() + self._start_seconds
                self.addresses = [
                    self._wait_for(Path(folder), number, until) for number in range(self._count)
                ]
            except BaseException:
                self.stop()
                raise
        return self.addresses

    def stop(self) -> None:
        """Stops them all; again does nothing."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.terminate()
        until = time.monotonic() + _STOP_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> LocalServers:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self, folder: Path, number: int) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "farsim", "serve"),
            *self._arguments,
            *("--address", "127.0.0.1:0", "--port-file", str(folder / f"{number}.ports")),
            *("--exit-with-parent", str(os.getpid())),
        ]
        with (folder / f"{number}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for this process, which then stops them when it is done with them.
                start_new_session=True,
            )

    def _wait_for(self, folder: Path, number: int, until: float) -> str:
        ports, log = folder / f"{number}.ports", folder / f"{number}.log"
        process = self._processes[number]
        while not ports.exists():
            if process.poll() is not None:
                raise ServerUnavailable(
                    f"a local server ended with code {process.returncode} before it was ready"
                    f"{_said(log)}"
                )
            if time.monotonic() > until:
                raise ServerUnavailable(
                    f"a local server was not ready within {self._start_seconds:g} s{_said(log)}"
                )
            time.sleep(0.02)
        address = ports.read_text().split()[0]
        with grpc.insecure_channel(address) as channel:
            try:
                reply = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=SERVICE),
                    timeout=max(1.0, until - time.monotonic()),
                )
            except grpc.RpcError as error:
                raise ServerUnavailable(
                    f"a local server on {address} does not answer: {error}{_said(log)}",
                    address,
                ) from None
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise ServerUnavailable(
                f"a local server on {address} is not serving{_said(log)}", address
            )
        return address


def _said(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    return ". It printed:\n" + "\n".join(lines) if lines else "; it printed nothing"
