"""Running ``farsim train`` and ``farsim evaluate`` as users do: as processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from farsim.cli import app

ROOT = Path(__file__).resolve().parents[3]

#: A few hundred steps an iteration, and a network that takes no time.
QUICK = """\
training: {train_batch_size_per_learner: 400, minibatch_size: 200, num_epochs: 1}
env_runners: {num_envs_per_env_runner: 8}
"""


@dataclass
class Workplace:
    """Where commands run, with a folder of their own for what must not be left behind.

    Attributes:
        folder: for results.
        scratch: what the commands take for the system's temporary folder.
    """

    folder: Path
    scratch: Path
    quick: Path = field(init=False)

    def __post_init__(self) -> None:
        self.quick = self.folder / "quick.yaml"
        self.quick.write_text(QUICK)

    def start(self, *arguments: object, inside: Sequence[str] = ()) -> subprocess.Popen[str]:
        """A command that runs.

        Args:
            arguments: of ``farsim``.
            inside: a command that runs the rest of its arguments, as ``ip netns exec NAME`` does.
        """
        return subprocess.Popen(
            [*inside, sys.executable, "-m", "farsim", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **self._environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A process group of its own, to which a test can send what a terminal sends.
            start_new_session=True,
        )

    def run(self, *arguments: object, code: int = 0) -> str:
        """What a command printed, which must exit with ``code`` and leave nothing behind."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=200)
        finally:
            process.kill()
        assert process.returncode == code, output
        self.check_clean()
        return output

    def here(self, *arguments: object, code: int = 0) -> str:
        """As ``run``, but in this process, which then need not load RLlib once more.

        Where the process is not the point; for each subcommand there are tests with one of its own.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(tempfile, "tempdir", str(self.scratch))
            result = CliRunner().invoke(
                app, [*map(str, arguments)], env=self._environment, prog_name="farsim"
            )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        self.check_clean()
        return result.output

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "TMPDIR": str(self.scratch),
            "COLUMNS": "150",
            "RAY_ADDRESS": "127.0.0.1:1",  # Nobody is there: it must not be tried.
        }

    def check_clean(self) -> None:
        """Nothing of ours or Ray's may be left in the temporary folder."""
        left = [path.name for path in self.scratch.iterdir()]
        # Torch's cache, which it makes when it is imported.
        left = [name for name in left if not name.startswith("torchinductor_")]
        if left:
            raise AssertionError(f"left behind: {left}")


@contextmanager
def workplace(folder: Path) -> Iterator[Workplace]:
    # A short path, for Ray's Unix sockets.
    scratch = Path(tempfile.mkdtemp(prefix="ft", dir="/tmp"))
    try:
        yield Workplace(folder, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)
