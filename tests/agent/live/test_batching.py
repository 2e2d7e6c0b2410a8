"""Batches: what is asked together is answered together, and nobody alone waits."""

import queue
import threading
import time

import numpy as np
import pytest

from agent.live.batching import Batcher
from agent.live.inference import Answer, Query
from agent.live.metrics import Metrics
from farsim.errors import InternalError, UnknownPolicy
from tests.agent.live.linear import Linear


class Asking:
    """A batcher and what it has delivered."""

    def __init__(self, inference, max_batch=4, max_wait_seconds=0.0):
        self.outcomes = queue.SimpleQueue()

        def deliver(outcomes):
            for done, outcome in outcomes:
                done(outcome)

        self.batcher = Batcher(inference, deliver, max_batch, max_wait_seconds, Metrics())

    def ask(self, name, *seen, version=0):
        queries = [Query(np.full(4, one, np.float32), (), None, True, None) for one in seen]
        self.batcher.submit(
            "default", version, queries, lambda outcome: self.outcomes.put((name, outcome))
        )

    def get(self, count):
        return dict(self.outcomes.get(timeout=30) for _ in range(count))


@pytest.fixture
def policy():
    return Linear()


@pytest.fixture
def asking(policy):
    asking = Asking(policy)
    yield asking
    policy.gate.set()
    asking.batcher.close()


def test_what_gathers_during_a_pass_is_one_batch_up_to_the_bound(policy, asking):
    policy.gate.clear()
    asking.ask("first", 1)
    assert policy.asked.wait(30)
    for number in range(6):
        asking.ask(number, 1 if number % 2 else -1)
    policy.gate.set()
    outcomes = asking.get(7)
    assert [rows for _, rows, _ in policy.batches] == [1, 4, 2]
    assert [int(outcomes[number][0].action) for number in range(6)] == [0, 2] * 3


def test_a_request_is_never_split(policy, asking):
    policy.gate.clear()
    asking.ask("first", 1)
    assert policy.asked.wait(30)
    asking.ask("three", 1, 1, 1)
    asking.ask("two", 1, 1)
    asking.ask("six", *[1] * 6)
    policy.gate.set()
    asking.get(4)
    assert [rows for _, rows, _ in policy.batches] == [1, 3, 2, 6]


def test_versions_are_not_mixed(policy, asking):
    policy.kept[:] = [1, 2]
    policy.gate.clear()
    asking.ask("first", 1)
    assert policy.asked.wait(30)
    for number in range(4):
        asking.ask(number, 1, version=1 + number % 2)
    policy.gate.set()
    outcomes = asking.get(5)
    assert policy.batches[1:] == [("default", 2, 1), ("default", 2, 2)]
    assert [outcomes[number][0].version for number in range(4)] == [1, 2, 1, 2]


def test_a_query_that_makes_the_policy_fail_fails_alone(policy, asking):
    policy.gate.clear()
    asking.ask("first", 1)
    assert policy.asked.wait(30)
    for number, seen in enumerate((1, 9, -1)):
        asking.ask(number, seen)
    policy.gate.set()
    outcomes = asking.get(4)
    assert isinstance(outcomes[1], InternalError)
    assert [int(outcomes[number][0].action) for number in (0, 2)] == [2, 0]


def test_a_version_that_is_gone_is_said_to_be(policy, asking):
    asking.ask("old", 1, version=7)
    assert isinstance(asking.get(1)["old"], UnknownPolicy)


def test_too_few_answers_are_an_error():
    class Short(Linear):
        def act(self, policy, queries, version=0):
            return [Answer(0, None, 1)] * (len(queries) - 1)

    asking = Asking(Short())
    asking.ask("a", 1, 1)
    assert isinstance(asking.get(1)["a"], InternalError)
    asking.batcher.close()


def test_closing_ends_the_thread(policy, asking):
    asking.batcher.close()
    assert not any(thread.name == "inference" for thread in threading.enumerate())


class Slow(Linear):
    def act(self, policy, queries, version=0):
        time.sleep(0.02)
        return super().act(policy, queries, version)


def test_a_batch_waits_for_queries_that_come_faster_than_a_pass_takes():
    asking = Asking(Slow(), max_batch=64, max_wait_seconds=0.5)
    for _ in range(30):  # So that the averages know of passes of 20 ms and of short gaps.
        asking.ask("warm", 1)
        asking.get(1)
    for number in range(64):
        asking.ask(number, 1)
    asking.get(64)
    assert len(asking.batcher._inference.batches) < 30 + 10
    asking.batcher.close()


def test_one_asker_alone_is_never_kept_waiting(monkeypatch):
    naps = []
    asking = Asking(Slow(), max_wait_seconds=5.0)
    monkeypatch.setattr("agent.live.batching.time.sleep", lambda seconds: naps.append(seconds))
    for _ in range(20):
        asking.ask("alone", 1)
        asking.get(1)
    asking.batcher.close()
    assert set(naps) <= {0.02}, naps
