"""Every broken promise is caught by the check that stands for it, and by no other."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from farsim.check.verdicts import Outcome, Status
from tests.farsim.check.broken import MISCHIEF, look
from tests.servers import ROOT


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    file = tmp_path_factory.mktemp("broken") / "addresses"
    log = file.with_name("log")
    command = [sys.executable, "-m", "tests.farsim.check.broken", str(file), str(os.getpid())]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while not Path(file).exists():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield dict(line.split() for line in file.read_text().splitlines())
    finally:
        process.kill()
        process.wait(20)


def test_there_are_enough():
    assert len(MISCHIEF) >= 12


@pytest.fixture(scope="module")
def reports(addresses: dict[str, str]) -> dict[str, list[Outcome]]:
    """What the kit says of each, two looked at at a time, as it mostly waits for replies."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        return dict(zip(addresses, pool.map(look, addresses.values()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", MISCHIEF)
def test_a_broken_promise_is_caught_and_nothing_else(reports: dict[str, list[Outcome]], name: str):
    bad = (Status.failed, Status.blocked)
    found = {o.check.title: o for o in reports[name] if o.status in bad}
    assert list(found) == [MISCHIEF[name].expected], {t: o.verdict for t, o in found.items()}
    (outcome,) = found.values()
    assert outcome.status is Status.failed
    assert outcome.check.sentence.startswith(MISCHIEF[name].sentence)
    assert outcome.verdict.startswith("sent ") and "; expected " in outcome.verdict
