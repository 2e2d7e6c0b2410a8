"""Starting the processes of one row: servers, the link before them, and the head."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import agent.bench
import farsim.bench
from agent.bench.case import Case, Simulator
from agent.bench.child import Child, PeerFailed
from agent.bench.link import Link
from agent.local_servers import LocalServers

#: How long a process may take until it is ready to play.
START_SECONDS = 120.0

#: A server takes no more sessions than this by default.
_SESSIONS = 64

#: Numbers in an observation of CartPole, float32.
_CART_POLE_VALUES = 4


@dataclass
class Launched:
    """The processes of one row.

    Attributes:
        head: plays when told to.
        simulators: process numbers of servers, whose CPU time and memory count.
        later: to be called when the head is ready to play; for clients that dial in.
    """

    head: Child
    simulators: list[int] = field(default_factory=list)
    later: Callable[[], None] | None = None


#: Starts the processes of a case; what is to be stopped goes to the stack. The last argument is how
#: many seconds a turn takes.
Launch = Callable[[Case, ExitStack, float], Launched]


def with_farsim_servers(
    player: str, *arguments: str, splits: int = 1, spin_seconds: float = 0.0
) -> Launch:
    """With ``farsim serve``, and a head that knows its addresses."""

    def start(case: Case, stack: ExitStack, seconds: float) -> Launched:
        simulator = Simulator.of(case.simulator)
        count = case.processes or case.servers
        least = -(-case.servers * splits // count)
        limits = [f"--max-sessions={max(_SESSIONS, least + 1)}", "--max-environments=65536"]
        limits.append(f"--spin-seconds={spin_seconds}")
        options = dict(simulator.options)
        if case.processes:
            options["cores"] = -(-case.servers // case.processes)
        servers = LocalServers(simulator.served, count, options, limits)
        stack.callback(servers.stop)
        servers.start()
        addresses = _through(case.link, servers.addresses, stack)
        spread = [addresses[number % count] for number in range(case.servers)]
        request = _request(case, spread, splits, seconds) | {"spin_seconds": spin_seconds}
        return Launched(_head(player, request, arguments, stack), servers.pids)

    return start


def with_server(server: str, player: str, *arguments: str, splits: int = 1) -> Launch:
    """With a module of ``simserver.bench`` as the server."""

    def start(case: Case, stack: ExitStack, seconds: float) -> Launched:
        simulator = Simulator.of(case.simulator)
        wanted = {
            "simulator": simulator.served,
            "options": simulator.options,
            "envs": case.envs,
            "splits": min(splits, case.envs),
        }
        child = _start([sys.executable, "-m", server, json.dumps(wanted)], stack)
        address = child.hear(START_SECONDS)["address"]
        addresses = _through(case.link, [address], stack)
        head = _head(player, _request(case, addresses, splits, seconds), arguments, stack)
        return Launched(head, [child.pid])

    return start


def in_process(player: str, *arguments: str) -> Launch:
    """With the simulator in the head's own process."""

    def start(case: Case, stack: ExitStack, seconds: float) -> Launched:
        request: dict[str, Any] = _request(case, [], 1, seconds)
        if player.startswith("simserver."):
            request = {name: request[name] for name in ("simulator", "options", "envs")}
        return Launched(_head(player, request, arguments, stack))

    return start


def openenv(python: Callable[[], str], single: bool) -> Launch:
    """With OpenEnv's own server and client, in the interpreter that has them."""

    def start(case: Case, stack: ExitStack, seconds: float) -> Launched:
        envs = 1 if single else case.envs
        path = {"PYTHONPATH": _folder(farsim.bench)}
        # The server's side is no part of this package, but comes in the same distribution.
        server = Path(_folder(farsim.bench)).parents[1] / "simserver" / "bench" / "elsewhere"
        command = [python(), str(server / "openenv_cart_pole.py"), json.dumps({"envs": envs})]
        child = _start(command, stack, path)
        address = child.hear(START_SECONDS)["address"]
        (address,) = _through(case.link, [address], stack)
        script = Path(_folder(agent.bench)) / "elsewhere" / "openenv_player.py"
        request = json.dumps({"address": address, "envs": envs})
        return Launched(_start([python(), str(script), request], stack, path), [child.pid])

    return start


def grpc_cpp(case: Case, stack: ExitStack, seconds: float) -> Launched:
    """With a program in C++ on both ends, and no simulator; it is built first."""
    program = str(echo_program())
    simulator_bytes = case.envs * (4 * _CART_POLE_VALUES + 10)
    child = _start([program, "serve", str(simulator_bytes)], stack)
    (address,) = _through(case.link, [child.hear(START_SECONDS)["address"]], stack)
    sizes = [str(case.envs), str(1 + 8 * case.envs), str(simulator_bytes)]
    return Launched(_start([program, "play", address, *sizes], stack), [child.pid])


@cache
def echo_program() -> Path:
    """``grpc_echo``, built in a folder that goes when this process ends.

    Raises:
        PeerFailed: the compiler does not take it; with what it says.
    """
    folder = tempfile.TemporaryDirectory(prefix="farsim-bench-")
    _kept.append(folder)
    source = Path(_folder(agent.bench)) / "elsewhere" / "grpc_echo.cpp"
    program = Path(folder.name) / "grpc_echo"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True
    ).stdout.split()
    command = ["g++", "-std=c++17", "-O2", "-w", str(source), "-o", str(program), *flags]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        raise PeerFailed(f"grpc_echo.cpp can not be built: {built.stderr}", "grpc-cpp")
    return program


#: Folders that go when this process ends.
_kept: list[tempfile.TemporaryDirectory[str]] = []


def rllink(case: Case, stack: ExitStack, seconds: float) -> Launched:
    """With an environment that dials in, and decides by itself."""
    with socket.socket() as listener:  # RLlib takes a number alone; it may be taken in between.
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    request = {"port": port}
    launched = Launched(_head("agent.bench.players.rllink_head", request, (), stack))

    def dial() -> None:
        (address,) = _through(case.link, [f"127.0.0.1:{port}"], stack)
        there = json.dumps({"port": int(address.rpartition(":")[2])})
        command = [sys.executable, "-m", "agent.bench.players.rllink_client", there]
        launched.simulators.append(_start(command, stack).pid)

    launched.later = dial
    return launched


def _request(case: Case, addresses: Sequence[str], splits: int, seconds: float) -> dict[str, Any]:
    simulator = Simulator.of(case.simulator)
    return {
        "addresses": list(addresses),
        "simulator": simulator.served,
        "options": dict(simulator.options),
        "envs": case.envs,
        "splits": splits,
        "seconds": seconds,
    }


def _head(
    player: str, request: dict[str, Any], arguments: Sequence[str], stack: ExitStack
) -> Child:
    return _start([sys.executable, "-m", player, json.dumps(request), *arguments], stack)


def _through(link: Link, addresses: Sequence[str], stack: ExitStack) -> list[str]:
    """Where to dial instead, so that the link is in between."""
    if not link.is_there:
        return list(addresses)
    wanted = {
        "targets": list(addresses),
        "round_trip_ms": link.round_trip_ms,
        "megabits": link.megabits,
    }
    proxy = _start([sys.executable, "-m", "agent.bench.proxy", json.dumps(wanted)], stack)
    found: list[str] = proxy.hear(START_SECONDS)["addresses"]
    return found


def _start(command: Sequence[str], stack: ExitStack, environment: Any = None) -> Child:
    child = Child(command, environment)
    stack.callback(child.stop)
    return child


def _folder(package: Any) -> str:
    return str(Path(package.__file__).parent)
