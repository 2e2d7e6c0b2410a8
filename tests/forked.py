"""``farsim`` as a process that is forked from one that has loaded it all.

Loading takes a second of a processor, and there are hundreds of servers in these tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


class Forked:
    """As much of ``subprocess.Popen`` as servers need.

    Args:
        arguments: of ``farsim``; it is told to stop with this process.
        folder: where it runs.
        log: for what it prints.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, log: Path) -> None:
        log.touch()
        self._process = _CONTEXT.Process(
            target=_run, args=(list(arguments), folder, dict(os.environ), log), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("farsim", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
    """In the process that was forked."""
    from farsim.cli import main

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = ["farsim", *arguments, "--exit-with-parent", str(os.getppid())]
    main()
