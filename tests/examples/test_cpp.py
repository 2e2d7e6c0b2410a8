"""The simulator in C++: built here, checked, resumed, dialled in, trained on, and played live."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from agent.remote_vector_env import RemoteVectorEnv
from tests.agent.training.command import Workplace, workplace
from tests.examples import foreign
from tests.gateways import gateway
from tests.proxy import Proxy
from tests.servers import ROOT, serving

SOURCE = ROOT / "examples" / "cpp"
BUILD = ROOT / "build" / "test-examples-cpp"
PACKAGES = "g++ cmake pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc"


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with the programs; built again only where something has changed.

    They are not optimised, to be built sooner.
    """
    hint = f"on Debian or Ubuntu: sudo apt-get install {PACKAGES}"
    missing = [tool for tool in ("g++", "cmake", "protoc") if shutil.which(tool) is None]
    assert not missing, f"{', '.join(missing)} is not here; {hint}"
    for command in (
        ["cmake", "-S", str(SOURCE), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=None"],
        ["cmake", "--build", str(BUILD), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\nif packages are missing, {hint}"
        assert "warning:" not in done.stderr, done.stderr
    return BUILD


@contextmanager
def running(program: Path, *arguments: str, ready: str = r"serving at (\S+)") -> Iterator[str]:
    """A server; at the end it is stopped, and has to drain."""
    process = subprocess.Popen([str(program), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.match(ready, process.stdout.readline())
        assert found, "the server did not start"
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def simulator(programs: Path, *arguments: str) -> Iterator[str]:
    with running(programs / "simulator", "--listen", "127.0.0.1:0", *arguments) as address:
        yield address


@pytest.fixture(scope="module")
def address(programs) -> Iterator[str]:
    with simulator(programs, "--max-sessions", "12") as address:
        yield address


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("cpp")) as place:
        yield place


def check(address: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "farsim", "check", address, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "blocked" not in done.stdout
    return done.stdout


def test_the_encoding_is_the_golden_one(programs) -> None:
    command = [str(programs / "golden"), str(ROOT / "tests" / "data" / "golden")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 60  # Cases; all of them were looked at.


def test_it_keeps_the_contract(address: str) -> None:
    assert " passed" in check(address)


def test_faults(address: str) -> None:
    assert re.search(
        r"faults\s+│ pass",
        check(address, "--only", "batch/*", "--option", "encoder_fails_at=7"),
    )


def test_heartbeats(address: str) -> None:
    options = ("--option", "pace=0.15", "--envs", "2", "--only", "sequence/heartbeats")
    assert re.search(r"heartbeats\s+│ pass", check(address, *options))


def test_a_token(programs, tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame\n")
    with simulator(programs, "--token-file", str(token)) as address:
        only = ("--only", "serving/*", "--only", "open/*")
        assert re.search(r"token\s+│ pass", check(address, "--token-file", str(token), *only))


def test_tls_and_a_token(programs, tmp_path) -> None:
    secrets = foreign.secrets(tmp_path)
    with simulator(programs, *secrets.serving) as address:
        secrets.assert_guarded(address)


def test_a_lease_runs_out(programs) -> None:
    with simulator(programs, "--max-sessions", "1") as address:
        foreign.assert_a_lease_runs_out(address)


def test_the_doctor_knows_the_simulators_share(address: str) -> None:
    shares = foreign.shares(address)
    assert 0 < shares["simulator"] < shares["step"]


def test_it_listens_beyond_this_machine_only_when_told(programs) -> None:
    command = [str(programs / "simulator"), "--listen", "0.0.0.0:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "--tls-cert" in done.stderr


def course(address: str, name: str, cut=lambda: None, steps: int = 120) -> list[np.ndarray]:
    """What a session shows; ``cut`` is called half-way."""
    env = RemoteVectorEnv(address, name, num_envs=5)
    generator = np.random.default_rng(1)
    try:
        seen = [env.reset(seed=3)[0].copy()]
        for number in range(steps):
            if number == steps // 2:
                cut()
            action = generator.uniform(-1, 1, (5, 1)).astype(np.float32)
            observation, reward, terminated, truncated, _ = env.step(action)
            seen.append(np.column_stack([observation, reward, terminated, truncated]))
        return seen
    finally:
        env.close()


def test_a_broken_connection_changes_nothing(address: str) -> None:
    expected = course(address, "cart-pole")
    with Proxy(address) as proxy:
        found = course(proxy.address, "cart-pole", proxy.cut)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_python_has_the_same_episodes(address: str) -> None:
    expected = course(address, "cart-pole")
    with serving("examples.cpp.cart_pole:CartPole") as server:
        found = course(server.address, "")
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_dialling_in(programs) -> None:
    groups = ("resume/*", "sequence/*", "sessions/*", "close/*")
    with gateway() as head:
        dialling = ("--attach", head.listens_at, "--seats", "6", "--name", "rig")
        with running(programs / "simulator", *dialling, ready="attached to (.*)"):
            check(head.address, *(word for name in groups for word in ("--only", name)))


@pytest.mark.slow
def test_it_is_learned_and_played_live(programs, address: str, place: Workplace) -> None:
    """At random an episode lasts 22 steps, by the rule 170, and 250 at most."""
    out = place.folder / "run"
    place.here(
        *("train", "cart-pole", "--sims", address, "--config", SOURCE / "ppo.yaml", "--seed", 1),
        *("--stop-return", 215, "--stop-steps", 150_000, "--out", out),
    )
    policy = place.start("policy", out, "--address", "127.0.0.1:0")
    try:
        assert policy.stdout is not None
        found = None
        for line in policy.stdout:
            found = re.search(r"\b(127\.0\.0\.1:\d+)", line)
            if found:
                break
        assert found, "the policy is not served"
        done = subprocess.run(
            [str(programs / "live"), "--policy", found[1], "--episodes", "8", "--deadline", "20"],
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        policy.terminate()
        policy.communicate(timeout=30)
    assert done.returncode == 0, done.stderr
    last = re.search(r"mean return (\S+), of the rule (\S+), fallbacks 0", done.stdout)
    assert last, done.stdout
    assert float(last[1]) >= float(last[2]) + 30, done.stdout


@pytest.mark.slow
def test_live_where_no_policy_is_served(programs, address: str) -> None:
    done = subprocess.run(
        [str(programs / "live"), "--policy", address, "--episodes", "1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "does not welcome" in done.stderr
