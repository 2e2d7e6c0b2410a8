"""Steps a second of cart-pole in C++ beside the same model in NumPy, each behind its server.

Both are driven by ``RemoteVectorEnv`` over loopback, by turns, with 1, 64 and 1,024 environments
and the same actions. ``python benchmarks/cpp_simulator.py --build FOLDER`` builds the C++ program
in FOLDER first (``build/examples-cpp`` by default).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agent.remote_vector_env import RemoteVectorEnv

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1, 64, 1024)


def build(folder: Path) -> Path:
    """The C++ program, built where it is not up to date."""
    source = ROOT / "examples" / "cpp"
    for command in (
        ["cmake", "-S", str(source), "-B", str(folder)],
        ["cmake", "--build", str(folder), "--parallel", "2", "--target", "simulator"],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "simulator"


@contextmanager
def in_cpp(program: Path) -> Iterator[str]:
    """The address of the C++ server."""
    command = [str(program), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.match(r"serving at (\S+)", process.stdout.readline())
        assert found
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@contextmanager
def in_python() -> Iterator[str]:
    """The address of ``farsim serve`` with the same model."""
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder, "ports")
        command = [sys.executable, "-m", "farsim", "serve", "examples.cpp.cart_pole:CartPole"]
        command += ["--address", "127.0.0.1:0", "--port-file", str(ports)]
        command += ["--exit-with-parent", str(os.getpid())]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            while not ports.exists():
                assert process.poll() is None, "the Python server did not start"
                time.sleep(0.05)
            yield ports.read_text().split()[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def steps_per_second(address: str, size: int, seconds: float) -> float:
    """Environment steps a second, of one session of ``size`` environments."""
    env = RemoteVectorEnv(address, num_envs=size)
    actions = np.random.default_rng(0).uniform(-1, 1, (64, size, 1)).astype(np.float32)
    try:
        env.reset(seed=0)
        for action in actions[:16]:
            env.step(action)
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            env.step(actions[count % len(actions)])
            count += 1
        return count * size / (time.perf_counter() - begun)
    finally:
        env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "examples-cpp")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    program = build(options.build)
    table = Table(title="cart-pole over gRPC, environment steps/s (median of rounds)")
    for column in ("environments", "C++", "NumPy", "C++ / NumPy"):
        table.add_column(column, justify="right")
    with in_cpp(program) as cpp, in_python() as python:
        for size in SIZES:
            rounds = [
                [steps_per_second(address, size, options.seconds) for address in (cpp, python)]
                for _ in range(options.rounds)
            ]
            ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
            table.add_row(f"{size:,}", f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
