"""Checkpoints of every kind are served as ``farsim check --policy`` asks."""

from __future__ import annotations

import pytest

from agent.live.server import PolicyServer
from agent.policy.runtime import PolicyRuntime, Settings
from farsim.channel import ConnectionOptions
from farsim.check import runner
from farsim.check.policy.subjects import subjects
from farsim.check.policy.suite import CHECKS
from farsim.check.verdicts import Status


@pytest.mark.parametrize("name", ["masked", "lstm", "own-lstm", "nested", "multi", "sac"])
def test_the_kit_finds_nothing(trained, name):
    runtime = PolicyRuntime(Settings(trained / name, trust=True))
    with PolicyServer(runtime.inference) as server:
        outcomes = runner.run(subjects(server.address, ConnectionOptions()), CHECKS)
    runtime.close()
    wrong = (Status.failed, Status.blocked)
    assert not {o.check.title: o.verdict for o in outcomes if o.status in wrong}
    passed = {o.check.title for o in outcomes if o.status is Status.passed}
    assert ("live/memory of each episode" in passed) == (name in ("lstm", "own-lstm"))
    assert ("live/masks" in passed) == (name == "masked")
