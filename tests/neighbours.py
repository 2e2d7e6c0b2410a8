"""Servers of other projects, each with that project's own classes, as processes."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers import ROOT

_HERE = ROOT / "tests" / "simulators"


@contextmanager
def dm_catch() -> Iterator[str]:
    """A server of dm_env_rpc; its ``host:port``."""
    with _running([sys.executable, "-m", "tests.simulators.dm_catch"]) as address:
        yield address


@contextmanager
def openenv_thermostat() -> Iterator[str]:
    """A server of OpenEnv; its ``host:port``."""
    with _running([str(openenv_python()), str(_HERE / "openenv_thermostat.py")]) as address:
        yield address


def openenv_python() -> Path:
    """The interpreter of an environment with OpenEnv in it, which is made once."""
    folder = Path(sys.prefix) / "openenv"
    requirements = _HERE / "openenv.txt"
    wanted, done = requirements.read_text(), folder / "installed.txt"
    # Several processes of tests may want it at the same time.
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != wanted:
            venv.create(folder, clear=True, with_pip=True)
            command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--requirement", requirements]
            subprocess.run(command, check=True)
            done.write_text(wanted)
    return folder / "bin" / "python"


@contextmanager
def _running(command: Sequence[str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="farsim-test-") as temporary:
        port, log = Path(temporary, "port"), Path(temporary, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, str(port)], cwd=ROOT, stdout=output, stderr=output
            )
        try:
            deadline = time.monotonic() + 60
            while not port.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield port.read_text().strip()
        finally:
            process.kill()
            process.wait(20)
