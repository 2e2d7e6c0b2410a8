"""Servers that an embedded run starts on its own machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agent.local_servers import LocalServers
from agent.session import Session, describe
from farsim.errors import InvalidArgument, ServerUnavailable
from tests.servers import ROOT


def wait_until_gone(pids: list[int]) -> None:
    """Waits for processes that are not this one's children to end."""
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {pids}"
        time.sleep(0.05)


def test_they_serve_and_stop() -> None:
    with LocalServers(["adder"], 2, {"initial_value": [3, 3]}) as servers:
        assert len(set(servers.addresses)) == 2
        pids = servers.pids
        for address in servers.addresses:
            with Session.open(address) as session:
                assert session.reset().groups[0].observation["value"].tolist() == [3]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    servers.stop()


def test_they_stop_when_the_block_fails() -> None:
    pids: list[int] = []
    with pytest.raises(ZeroDivisionError), LocalServers("adder") as servers:
        pids += servers.pids
        1 / 0  # noqa: B018
    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_one_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.local_servers._STOP_SECONDS", 0.2)
    with LocalServers("adder") as servers:
        (pid,) = servers.pids
        os.kill(pid, signal.SIGSTOP)
    assert not psutil.pid_exists(pid)


def test_they_stop_when_the_process_is_killed() -> None:
    program = (
        "import time\n"
        "from agent.local_servers import LocalServers\n"
        "with LocalServers('adder', 2) as servers:\n"
        "    print(*servers.pids, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        process.kill()
    wait_until_gone(pids)


def test_what_a_server_said_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(
        ServerUnavailable, match=r"(?s)ended with code \d+.*did you mean 'adder'"
    ) as caught:
        LocalServers(["addr"]).start()
    assert "It printed:" in str(caught.value)
    with pytest.raises(ServerUnavailable, match=r"not ready within 0\.01 s"):
        LocalServers("adder", start_seconds=0.01).start()
    with pytest.raises(InvalidArgument):
        LocalServers("adder", 0)


def test_more_arguments(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame")
    with LocalServers("adder", arguments=["--token-file", str(token)]) as servers:
        assert describe(servers.addresses[0], {"token": "sesame"})[0].name == "adder"
