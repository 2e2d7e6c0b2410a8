"""Counting what is done in a turn."""

import pytest

from agent.bench.players.pipeline import Pipeline
from farsim.bench.turns import Stride, turn


def test_a_turn_adds_up_and_has_latencies():
    strides = iter([Stride(4, 100, 0.002), Stride(3, 100, 0.001), Stride(4, 100, 0.009)])
    made = []

    def stride() -> Stride:
        made.append(next(strides, Stride(0, 0, 0.0)))
        return made[-1]

    told = turn(stride, lambda: None, lambda: Stride(2, 50, 0.0), 0.01)
    assert len(made) > 3
    assert (told["steps"], told["payload"]) == (13, 350)
    assert (told["p50"], told["p99"]) == (0.002, 0.009)
    assert told["seconds"] >= 0.01
    assert told["cpu"] > 0


def test_strides_of_many_steps_have_no_latency():
    told = turn(lambda: Stride(100, 1, 0.0), lambda: None, lambda: Stride(0, 0, 0.0), 0.001)
    assert (told["p50"], told["p99"]) == (None, None)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_pipeline_keeps_every_group_on_its_way_and_leaves_nothing_there(groups: int):
    under_way, most, log = set(), 0, []

    def send(group: int) -> None:
        nonlocal most
        assert group not in under_way
        under_way.add(group)
        most = max(most, len(under_way))

    def receive(group: int) -> tuple[int, int]:
        under_way.remove(group)
        log.append(group)
        return 5, 7

    pipeline = Pipeline(groups, send, receive)
    for _ in range(2):
        pipeline.begin()
        assert len(under_way) == groups
        done = [pipeline.stride() for _ in range(4)]
        assert all(stride.steps == 5 and stride.payload == 7 for stride in done)
        assert pipeline.finish()[:2] == (5 * groups, 7 * groups)
        assert not under_way
    once = [number % groups for number in range(4 + groups)]
    assert log == once * 2
    assert most == groups
