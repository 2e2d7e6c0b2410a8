"""Real servers for tests: ``farsim serve`` as a process of its own, on a free loopback port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.forked import Forked

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Serving:
    """A running server.

    Attributes:
        process: the server's, or the supervisor's of several workers.
        addresses: ``host:port`` of each worker.
        log: what it printed so far.
    """

    process: subprocess.Popen[bytes] | Forked
    addresses: list[str]
    log: Path

    @property
    def address(self) -> str:
        return self.addresses[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


def started(
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    inside: Sequence[str] = (),
    anew: bool = False,
) -> subprocess.Popen[bytes] | Forked:
    """A command of ``farsim`` that runs and prints to ``log``; see ``serving``."""
    # Forking loads the main module once more, for which those of scripts need not be made.
    if not inside and not anew and "pytest" in sys.modules:
        return Forked(arguments, folder, log)
    command = [*inside, sys.executable, "-m", "farsim", *arguments]
    command += ["--exit-with-parent", str(os.getpid())]
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)


@contextmanager
def serving(
    *arguments: str,
    address: str = "127.0.0.1:0",
    folder: Path = ROOT,
    inside: Sequence[str] = (),
    anew: bool = False,
) -> Iterator[Serving]:
    """Runs ``farsim serve`` in ``folder``; at the end stops it, and checks that it drained.

    Args:
        arguments: what to serve, and options.
        address: where it listens.
        folder: where it runs.
        inside: a command that runs the rest of its arguments, as ``ip netns exec NAME`` does.
        anew: whether to start a Python of its own, as users do, which takes a second longer.
    """
    with tempfile.TemporaryDirectory(prefix="farsim-test-") as temporary:
        ports, log = Path(temporary, "ports"), Path(temporary, "log")
        command = ["serve", *arguments, "--address", address, "--port-file", str(ports)]
        process = started(command, folder, log, inside, anew or "--workers" in arguments)
        try:
            deadline = time.monotonic() + 60
            while not ports.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield Serving(process, ports.read_text().split(), log)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                code = process.wait(30)
                assert code == 0, f"the server ended with {code}:\n{log.read_text()}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(20)
