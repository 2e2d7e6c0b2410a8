"""Training on simulators that dial in: the gateway's process, and waiting for the first of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import grpc
from rich.console import Console

from farsim import addresses as address_lists
from farsim.errors import InvalidArgument, ServerUnavailable
from farsim.v1 import simulator_pb2, simulator_pb2_grpc

#: How long the gateway may take to start, and to end, s.
_START_SECONDS, _STOP_SECONDS = 60.0, 15.0
#: How long the gateway is asked at one time, s; it answers sooner if somebody dials in.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class GatewayRequest:
    """How simulators may dial in.

    Attributes:
        listen: ``host:port``.
        arguments: options of ``farsim gateway attach`` besides its addresses.
        wait_seconds: how long to wait for the first simulator; 0 for any time.
    """

    listen: str
    arguments: tuple[str, ...] = ()
    wait_seconds: float = 0.0

    @classmethod
    def of(
        cls,
        listen: str,
        connection: Mapping[str, str],
        insecure: bool,
        wait_seconds: float,
    ) -> GatewayRequest:
        """From the options of the command line.

        Args:
            listen: host:port.
            connection: TLS files and the token's, which are the gateway's own here.
            insecure: whether plain text is fine beyond this machine.
            wait_seconds: for the first simulator.

        Raises:
            InvalidArgument: a certificate without its key.
        """
        if ("tls_cert" in connection) != ("tls_key" in connection):
            raise InvalidArgument("--tls-cert and --tls-key go together", "tls_cert")
        flags = {"tls_ca": "--tls-client-ca"}
        arguments = [
            f"{flags.get(name, '--' + name.replace('_', '-'))}={path}"
            for name, path in connection.items()
        ]
        if insecure:
            arguments.append("--insecure")
        return cls(listen, tuple(arguments), wait_seconds)


@dataclass
class GatewayProcess:
    """Runs ``farsim gateway attach`` while the ``with`` block lasts, and no longer.

    Its log goes to where this process's errors go, since it tells who comes and who goes.

    Attributes:
        request: how simulators may dial in.
        listens_at: where they do.
        address: where clients find them.
    """

    request: GatewayRequest
    listens_at: str = ""
    address: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __enter__(self) -> GatewayProcess:
        with tempfile.TemporaryDirectory(prefix="farsim-gateway-") as folder:
            ports = Path(folder, "ports")
            command = [
                *(sys.executable, "-m", "farsim", "gateway", "attach"),
                *("--listen", self.request.listen, "--address", "127.0.0.1:0"),
                *self.request.arguments,
                *("--port-file", str(ports), "--exit-with-parent", str(os.getpid())),
            ]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Ctrl-C is for this process, which then stops it when it is done with it.
                start_new_session=True,
            )
            try:
                self._wait_for(ports)
            except BaseException:
                self.stop()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops it; again does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_for(self, ports: Path) -> None:
        assert self._process is not None
        until = time.monotonic() + _START_SECONDS
        while not ports.exists():
            if self._process.poll() is not None:
                raise ServerUnavailable(
                    f"the gateway ended with code {self._process.returncode}; what it printed "
                    "above says why",
                    self.request.listen,
                )
            if time.monotonic() > until:
                raise ServerUnavailable("the gateway did not start", self.request.listen)
            time.sleep(0.02)
        self.listens_at, self.address = ports.read_text().split()


@contextlib.contextmanager
def gateway_addresses(
    request: GatewayRequest,
    sims: str,
    simulator: str,
    console: Console,
    check: Callable[[], None],
) -> Iterator[list[str]]:
    """Where clients find what dials in, from the first simulator on, and the other servers.

    Args:
        request: how simulators may dial in.
        sims: addresses of other servers, as people write them; may be empty.
        simulator: what to wait for.
        console: where to tell that it waits.
        check: called while waiting; raises to stop.

    Raises:
        ServerUnavailable: the simulator has not come within ``wait_seconds``.
    """
    with GatewayProcess(request) as gateway:
        console.print(f"gateway     {gateway.listens_at}", soft_wrap=True)
        others = address_lists.expand(sims) if sims else []
        if not others:
            _wait_for_first(request, gateway, simulator, console, check)
        yield [gateway.address, *others]


def _wait_for_first(
    request: GatewayRequest,
    gateway: GatewayProcess,
    simulator: str,
    console: Console,
    check: Callable[[], None],
) -> None:
    begun = time.monotonic()
    waiting = (
        f"waiting for {simulator}: farsim serve {simulator} --attach "
        f"<this machine>:{gateway.listens_at.rpartition(':')[2]} …"
    )
    with console.status(waiting), grpc.insecure_channel(gateway.address) as channel:
        if not console.is_terminal:
            console.print(waiting, soft_wrap=True)
        stub = simulator_pb2_grpc.SimulatorStub(channel)
        while True:
            check()
            reply = stub.Describe(simulator_pb2.DescribeRequest(), timeout=10 * _LOOK_SECONDS)
            names = [one.name for one in reply.simulators]
            if simulator in names or (not simulator and len(names) == 1):
                console.print(f"attached    {reply.server}", soft_wrap=True)
                return
            waited = time.monotonic() - begun
            if request.wait_seconds and waited > request.wait_seconds:
                what = f"only {', '.join(names)} came" if names else "nobody came"
                raise ServerUnavailable(
                    f"no '{simulator}' has dialled in at {gateway.listens_at} within "
                    f"{request.wait_seconds:g} s; {what}: start farsim serve {simulator} --attach, "
                    "or wait longer with --gateway-wait",
                    gateway.listens_at,
                )
            if names:
                time.sleep(_LOOK_SECONDS)
