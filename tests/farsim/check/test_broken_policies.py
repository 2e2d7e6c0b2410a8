"""Every promise that a server of policies breaks is caught by the check that stands for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from farsim.check.verdicts import Status
from tests.farsim.check.broken_policies import MISCHIEF, look
from tests.servers import ROOT

BAD = (Status.failed, Status.blocked)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    file = tmp_path_factory.mktemp("broken-policies") / "addresses"
    log = file.with_name("log")
    command = [sys.executable, "-m", "tests.farsim.check.broken_policies", str(file)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(os.getpid())], cwd=ROOT, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 60
        while not Path(file).exists():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield dict(line.split() for line in file.read_text().splitlines())
    finally:
        process.kill()
        process.wait(20)


def test_without_mischief_all_is_well(addresses: dict[str, str]):
    outcomes = look(addresses["Mischief"])
    bad = {o.check.title: o.verdict for o in outcomes if o.status in BAD}
    assert not bad
    # What is left needs a token, or a learner.
    left = {o.check.title for o in outcomes} - {
        o.check.title for o in outcomes if o.status is Status.passed
    }
    assert left == {"serving/token", "collect/actions"}


@pytest.mark.parametrize("name", MISCHIEF)
def test_a_broken_promise_is_caught_and_nothing_else(addresses: dict[str, str], name: str):
    outcomes = look(addresses[name])
    found = {o.check.title: o for o in outcomes if o.status in BAD}
    assert list(found) == [MISCHIEF[name].expected], {t: o.verdict for t, o in found.items()}
    (outcome,) = found.values()
    assert outcome.status is Status.failed
    assert outcome.check.sentence.startswith(MISCHIEF[name].sentence)
    assert outcome.verdict.startswith("sent ") and "; expected " in outcome.verdict
