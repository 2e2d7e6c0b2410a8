"""The reference server as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers import ROOT


@dataclass
class Policies:
    """A running server of policies.

    Attributes:
        folder: of its files.
        arguments: what it was started with.
        address: ``host:port``; the same after another start.
        past: sessions of earlier tests.
    """

    folder: Path
    arguments: tuple[str, ...]
    address: str = ""
    process: subprocess.Popen[bytes] | None = None
    past: set[str] = field(default_factory=set)

    @contextmanager
    def anew(self) -> Iterator[Policies]:
        """As if it had just been started, for a while."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        self.past = {event["session"] for event in self._recorded}
        try:
            yield self
        finally:
            (self.folder / "hold").unlink(missing_ok=True)

    def start(self) -> None:
        port = self.address.rpartition(":")[2] or "0"
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.farsim.live.reference", "--port", port]
        command += ["--port-file", str(port_file), "--record", str(self.folder / "record")]
        command += ["--hold", str(self.folder / "hold"), *self.arguments]
        log = (self.folder / "log").open("ab")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        until = time.monotonic() + 60
        while not port_file.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)
        self.address = f"127.0.0.1:{port_file.read_text()}"

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(20)

    def hold(self) -> None:
        """No observation is answered from now on."""
        (self.folder / "hold").touch()

    def release(self) -> None:
        (self.folder / "hold").unlink()

    @property
    def told(self) -> list[dict[str, Any]]:
        """Every event that was carried out, in order; those after ``hello`` of each session."""
        events = [event for event in self._recorded if event["session"] not in self.past]
        return [event for event in events if event["event"] != "hello"]

    @property
    def _recorded(self) -> list[dict[str, Any]]:
        record = self.folder / "record"
        return [json.loads(line) for line in record.read_text().splitlines()]

    def episode(self, number: int) -> list[dict[str, Any]]:
        """The events of one episode."""
        return [event for event in self.told if event.get("episode") == number]


@contextmanager
def policies(folder: Path, *arguments: str) -> Iterator[Policies]:
    server = Policies(folder, arguments)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def impatient(client: Any) -> Iterator[None]:
    """Answers are waited for but a moment, whatever the client's deadline.

    For answers that do not come: those that do have the whole deadline then, however busy the
    machine is.
    """
    rules = client._rules
    patient = rules.deadline
    object.__setattr__(rules, "deadline", 0.05)
    try:
        yield
    finally:
        object.__setattr__(rules, "deadline", patient)


def wait_for(condition: Any, what: str) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)
