"""``farsim train --gateway``, as users run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.agent.training.command import descendants, workplace
from tests.gateways import dialling


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    seen = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError("".join(seen))


@pytest.mark.slow
def test_it_waits_trains_on_what_dials_in_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with workplace(tmp_path) as place:
        train = place.start(
            *("train", "adder", "--gateway", "127.0.0.1:0", "--config", place.quick),
            *("--env-runners", "0", "--out", tmp_path / "run"),
        )
        try:
            where = read_until(train, r"^gateway +(\S+)$")[1]
            read_until(train, r"^waiting for adder: farsim serve adder --attach")
            (gateway,) = descendants(train)
            with dialling(where, "adder", "--seats", "20") as server:
                read_until(train, r"^attached .*\(attached: 1, seats: 20\)")
                read_until(train, r"^PPO on adder")
                read_until(train, r"^iteration +2\b|^ +2\b")
                server.wait_for("a seat was taken: 8 of 20")
                os.killpg(train.pid, signal.SIGINT)
                output, _ = train.communicate(timeout=100)
                assert train.returncode == 130, output
                assert not psutil.pid_exists(gateway.pid)
                server.wait_for("dialling again")
        finally:
            train.kill()
        place.check_clean()
        assert (tmp_path / "run" / "checkpoints").is_dir()


@pytest.mark.slow
def test_nobody_comes(tmp_path: Path) -> None:
    with workplace(tmp_path) as place:
        output = place.here(
            *("train", "adder", "--gateway", "127.0.0.1:0", "--gateway-wait", 0.5), code=1
        )
    assert "no 'adder' has dialled in at 127.0.0.1:" in output
    assert "nobody came" in output
