"""Processes of a comparison, which answer with lines of JSON, and what they have used."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farsim.errors import FarsimError

#: How long a process may take to end by itself once its standard input has ended.
_STOP_SECONDS = 5.0

#: How much of what a process printed goes into an error message.
_LAST_LINES = 15


class PeerFailed(FarsimError):
    """One of the processes of a comparison ended, or said nothing."""


@dataclass(frozen=True)
class Usage:
    """What processes have used since they began.

    Attributes:
        cpu_seconds: of all their threads.
        peak_bytes: of resident memory, the sum of each one's highest.
    """

    cpu_seconds: float
    peak_bytes: int

    @classmethod
    def of(cls, pids: Sequence[int]) -> Usage | None:
        """Of these processes together; None where the system does not say (other than Linux)."""
        ticks = peak = 0
        try:
            for pid in pids:
                # Fields 14 and 15, after a name that may have spaces: proc(5).
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(stat[11]) + int(stat[12])
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        peak += int(line.split()[1]) * 1024
        except OSError:
            return None
        return cls(ticks / os.sysconf("SC_CLK_TCK"), peak)


class Child:
    """A process that reads standard input, and ends with it.

    It has a session of its own: Ctrl-C is for who has started it, and who then stops it.

    Args:
        command: what to run.
        environment: variables beside those of this process.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._is_stopped = False
        self._what = " ".join([Path(command[0]).name, *command[1:3]])
        with tempfile.TemporaryFile() as log:
            self._log = os.dup(log.fileno())
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def say(self, line: str) -> None:
        """Writes a line to its standard input."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise PeerFailed(f"{self._what} has ended{self._said()}", self._what) from None

    def hear(self, seconds: float) -> dict[str, Any]:
        """The next document that it writes.

        Raises:
            PeerFailed: none came within ``seconds``, or the process has ended.
        """
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            raise PeerFailed(
                f"{self._what} said nothing for {seconds:g} s{self._said()}", self._what
            )
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed(f"{self._what} ended{self._said()}", self._what)
        document: dict[str, Any] = json.loads(line)
        return document

    def leave(self) -> None:
        """Ends its standard input, so that it ends soon."""
        assert self._process.stdin is not None
        with suppress(OSError):  # It may have ended with something unread.
            self._process.stdin.close()

    def stop(self) -> None:
        """Ends it, whatever it is doing; again does nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self.leave()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._log)

    def _said(self) -> str:
        until = time.monotonic() + 1.0
        while self._process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)  # For the rest of what it prints as it ends.
        size = os.fstat(self._log).st_size
        text = os.pread(self._log, size, 0).decode(errors="replace")
        lines = text.splitlines()[-_LAST_LINES:]
        return ". It printed:\n" + "\n".join(lines) if lines else "; it printed nothing"
