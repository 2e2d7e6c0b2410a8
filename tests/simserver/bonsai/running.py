"""Real gateways and simulators of the real Bonsai client, each a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microsoft_bonsai_api.simulator.client import BonsaiClient, BonsaiClientConfig
from microsoft_bonsai_api.simulator.generated.models import (
    Event,
    SimulatorInterface,
    SimulatorState,
)

ROOT = Path(__file__).resolve().parents[3]
ADDER = ("--reward", "-abs(state.value - 50)", "--episode-steps", "10")
WORKSPACE = "tests"


@dataclass
class Running:
    """A running gateway.

    Attributes:
        process: its own.
        address: of its gRPC side.
        http: of its REST side.
        log: what it printed so far.
    """

    process: subprocess.Popen[bytes]
    address: str
    http: str
    log: Path

    def client(self, access_key: str = "key") -> BonsaiClient:
        config = BonsaiClientConfig(workspace=WORKSPACE, access_key=access_key, argv=[])
        config.server = f"http://{self.http}"
        return BonsaiClient(config)

    def registered(self) -> set[str]:
        """The ids of the simulators that are."""
        with self.client() as client:
            return {each.session_id for each in client.session.list(WORKSPACE)}


@contextlib.contextmanager
def gateway(*arguments: str, folder: Path = ROOT) -> Iterator[Running]:
    """Runs ``farsim gateway bonsai``; at the end stops it, and checks that it drained."""
    with tempfile.TemporaryDirectory(prefix="farsim-test-") as temporary:
        ports, log = Path(temporary, "ports"), Path(temporary, "log")
        command = [sys.executable, "-m", "farsim", "gateway", "bonsai", *arguments]
        command += ["--address", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        command += ["--port-file", str(ports), "--exit-with-parent", str(os.getpid())]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 60
            while not ports.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the gateway did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield Running(process, *ports.read_text().split(), log)
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
            assert code == 0, f"the gateway ended with {code}:\n{log.read_text()}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(20)


@contextlib.contextmanager
def adders(
    running: Running, count: int, *arguments: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """``examples/bonsai_adder.py``, so many times, all of them registered."""
    environment = {
        **os.environ,
        "SIM_API_HOST": f"http://{running.http}",
        "SIM_WORKSPACE": WORKSPACE,
        "SIM_ACCESS_KEY": "key",
    }
    command = [sys.executable, str(ROOT / "examples" / "bonsai_adder.py"), *arguments]
    before = running.registered()
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            stack.callback(_end, process)
            processes.append(process)
        deadline = time.monotonic() + 60
        while len(running.registered() - before) < count:
            assert time.monotonic() < deadline, "the simulators did not register"
            time.sleep(0.05)
        yield processes


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def number(name: str, **range_of: float) -> dict[str, Any]:
    return {"name": name, "type": {"category": "Number", **range_of}}


def struct(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"category": "Struct", "fields": list(fields)}


class Puppet:
    """A simulator whose every question a test asks by itself, with the real client."""

    def __init__(
        self, running: Running, description: Any, name: str = "Puppet", timeout: float = 30.0
    ) -> None:
        self.client = running.client()
        self.register = lambda: self.client.session.create(
            WORKSPACE, SimulatorInterface(name=name, timeout=timeout, description=description)
        )
        self.session = self.register()
        self.sequence = 1

    def ask(self, sequence: int | None = None, **state: Any) -> Event:
        """One advance, with the number that is due or another one."""
        body = SimulatorState(sequence_id=self.sequence if sequence is None else sequence, **state)
        event = self.client.session.advance(WORKSPACE, self.session.session_id, body)
        self.sequence = event.sequence_id
        return event

    def until(self, kind: str, **state: Any) -> Event:
        """Asks until there is something to do, which is to be ``kind``."""
        deadline = time.monotonic() + 30
        event = self.ask(**state)
        while event.type == "Idle":
            assert time.monotonic() < deadline, f"no {kind} came"
            event = self.ask(**state)
        assert event.type == kind, event
        return event
