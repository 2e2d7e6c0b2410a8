"""Several server processes on consecutive ports, each started anew when it dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from farsim.errors import FarsimError

logger = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 15.0
#: A worker that lived so long has not failed to start, so its next start is not put off.
_SETTLED_SECONDS = 30.0


class WorkerFailed(FarsimError, RuntimeError):
    """A worker could not even start once."""


class Workers:
    """Runs one ``farsim serve`` process for each address and keeps them running.

    Python runs one thread of bytecode at a time, so a process is a core; a port of its own for
    each process makes a session's address enough to find it again.

    Args:
        command: the command for an address, without address and ready descriptor.
        addresses: one for each worker; a port 0 is settled by the worker's first start.
        grace_seconds: how long workers may take to drain.
    """

    def __init__(
        self,
        command: Callable[[int, str], Sequence[str]],
        addresses: Sequence[str],
        grace_seconds: float,
    ) -> None:
        self._command = command
        self._addresses = list(addresses)
        self._grace_seconds = grace_seconds
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * len(addresses)
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def run(self, ready: Callable[[str], None]) -> int:
        """Starts all, keeps them running until SIGTERM or SIGINT, and returns the exit code.

        Args:
            ready: called with the address of each worker once clients can connect.

        Raises:
            WorkerFailed: one could not start the first time.
        """
        for stop_signal in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stop_signal, self.stop)
        try:
            for number in range(len(self._addresses)):
                self._start(number)
                ready(self._addresses[number])
            threads = [
                threading.Thread(target=self._keep, args=(number,), daemon=True)
                for number in range(len(self._addresses))
            ]
            for thread in threads:
                thread.start()
            while not self._stop.wait(1.0):
                pass
        finally:
            self._stop.set()
            self._stop_all()
        return 0

    def stop(self, *_: Any) -> None:
        """Tells ``run`` to drain the workers and return; fit for a signal handler."""
        self._stop.set()

    def _start(self, number: int) -> None:
        read, write = os.pipe()
        with self._lock:
            if self._stop.is_set():
                os.close(read)
                os.close(write)
                return
            process = subprocess.Popen(
                [*self._command(number, self._addresses[number]), "--ready-fd", str(write)],
                pass_fds=(write,),
            )
            self._processes[number] = process
        os.close(write)
        with os.fdopen(read) as pipe:
            address = pipe.readline().strip()  # Empty if the process ends before it is ready.
        if not address:
            raise WorkerFailed(
                f"the worker for {self._addresses[number]} ended with code {process.wait()} before "
                "it was ready; what it printed above says why"
            )
        self._addresses[number] = address

    def _keep(self, number: int) -> None:
        delay = _FIRST_DELAY_SECONDS
        while True:
            process = self._processes[number]
            started = time.monotonic()
            code = process.wait() if process else 0
            if self._stop.is_set():
                return
            if time.monotonic() - started > _SETTLED_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            print(
                f"farsim: the worker on {self._addresses[number]} ended with code {code}; "
                f"starting it anew in {delay:g} s",
                file=sys.stderr,
                flush=True,
            )
            if self._stop.wait(delay):
                return
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)
            try:
                self._start(number)
            except WorkerFailed as error:
                logger.error("%s", error)

    def _stop_all(self) -> None:
        with self._lock:
            processes = [process for process in self._processes if process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._grace_seconds + 3
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
