"""What a plan of steps writes and reads, beside what protobuf does; what it leaves to protobuf."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple
from hypothesis import given
from hypothesis import strategies as st

from farsim import spaces, tensors, varint
from farsim.layout import Layout, delimited, tensor
from farsim.spaces.flat import flat
from farsim.steps import Stepped, StepPlan, StepPlans, numbered
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2
from tests.farsim.space_strategies import all_spaces, assert_same, value_lists

NUMBERS = Box(-1.0, 1.0, (3,), np.float32)
NESTED = Dict(speed=NUMBERS, gear=Tuple((Discrete(5), MultiDiscrete([2, 3]))))


class Group(NamedTuple):
    observation_space: Space[Any] = NUMBERS
    action_space: Space[Any] = Discrete(4)
    agents: tuple[str, ...] = ("agent",)
    has_action_mask: bool = False


def request(groups: list[Group], actions: list[Any], rows: int, named: Any = None) -> pb.SimRequest:
    message = pb.SimRequest(sequence=300)
    message.step.SetInParent()
    if named is not None:
        message.step.environments.index.extend(named)
    for group, action in zip(groups, actions, strict=True):
        encoded = spaces.encode(group.action_space, action, rows * len(group.agents))
        message.step.groups.add().actions.tensors.extend(encoded)
    return message


def reply(group: Group, stepped: Stepped, rows: int) -> pb.GroupBatch:
    return pb.GroupBatch(
        observation=tensor_pb2.Value(
            tensors=spaces.encode(group.observation_space, stepped.observation, rows)
        ),
        reward=tensors.pack(stepped.reward),
        terminated=tensors.pack(stepped.terminated),
        truncated=tensors.pack(stepped.truncated),
        action_masks=[tensors.pack(mask) for mask in stepped.action_masks],
    )


def stepped(observation: Any, rows: int, masks: tuple[Any, ...] = ()) -> Stepped:
    flags = np.arange(rows) % 2 == 0
    return Stepped(observation, np.arange(rows) / 7, flags, ~flags, masks)


@given(all_spaces, st.data())
def test_actions_are_written_and_read_as_protobuf_does(space, data):
    singles = data.draw(value_lists(space).filter(bool))
    actions, rows = spaces.batch(space, singles), len(singles)
    group = Group(action_space=space)
    plans = StepPlans([group], rows)
    body = plans.whole.write_request([actions])
    plan = flat(space)
    assert (body is None) == (plan is None or not plan.leaves)
    if body is None:
        return
    message = request([group], [actions], rows)
    assert numbered(300, body) == message.SerializeToString()
    sequence, found, (read,) = plans.read(message.SerializeToString())
    assert (sequence, found) == (300, plans.whole)
    assert_same(spaces.decode(space, message.step.groups[0].actions.tensors, rows), read)


@given(all_spaces, st.data())
def test_observations_are_written_and_read_as_protobuf_does(space, data):
    singles = data.draw(value_lists(space).filter(bool))
    observation, rows = spaces.batch(space, singles), len(singles)
    group = Group(observation_space=space, action_space=NESTED, has_action_mask=True)
    plan = StepPlan([group], np.arange(rows), whole=True)
    told = stepped(observation, rows, spaces.full_masks(NESTED, rows))
    written = plan.write_group(0, told)
    leaves = flat(space)
    assert (written is None) == (leaves is None or not leaves.leaves)
    if written is None:
        return
    raw = reply(group, told, rows).SerializeToString()
    assert b"".join(written[0]) == raw
    assert written[1] == len(raw)
    read, after = plan.read_group(0, b"before" + raw + b"after", 6, 6 + len(raw))
    assert after == 6 + len(raw)
    for expected, actual in zip(told, read, strict=True):
        assert_same(expected, actual)


def test_several_groups_and_agents():
    groups = [Group(agents=("a", "b")), Group(NESTED, NESTED, ("c",))]
    actions = [np.array([1, 2, 3, 0, 1, 2]), spaces.batch(NESTED, [NESTED.sample()] * 3)]
    plans = StepPlans(groups, 3)
    message = request(groups, actions, 3)
    assert numbered(300, plans.whole.write_request(actions)) == message.SerializeToString()
    _, _, read = plans.read(message.SerializeToString())
    assert_same(tuple(actions), tuple(read))
    assert [rows.tolist() for rows in plans.whole.rows] == [[0, 1, 2, 3, 4, 5], [0, 1, 2]]


def test_a_plan_for_some_environments_is_made_when_they_come_again():
    groups, named, actions = [Group()], np.array([1, 130]), [np.array([3, 0])]
    plans = StepPlans(groups, 200)
    raw = request(groups, actions, 2, named).SerializeToString()
    assert plans.of(named) is None
    assert plans.known(named) is None and plans.read(raw) is None
    plan = plans.of(named)
    assert plan is not None and plan is plans.of(named.copy())
    assert numbered(300, plan.write_request(actions)) == raw
    sequence, found, read = plans.read(raw)
    assert (sequence, found) == (300, plan)
    assert read[0].tolist() == [3, 0]
    assert plans.known(named).tolist() == plan.environments.tolist() == [1, 130]
    # Neither other environments nor as many others are taken for these.
    assert plans.read(request(groups, actions, 2, [2, 130]).SerializeToString()) is None
    assert plans.of(np.array([0, 1])) is None
    for first in range(150):  # More than a session remembers.
        plans.of(np.array([first, 199]))
        plans.of(np.array([first, 199]))
    assert plans.read(request(groups, actions, 2, [149, 199]).SerializeToString()) is not None


@pytest.mark.parametrize(
    "action",
    [
        [0, 1],
        (0, 1),
        np.array([0, 1], np.int32),
        np.array([0, 1], ">i8"),
        np.array([0]),
        np.array([[0], [1]]),
        None,
    ],
    ids=repr,
)
def test_what_is_not_exactly_right_is_left_to_the_general_codec(action):
    plan = StepPlan([Group()], np.arange(2), whole=True)
    assert plan.write_request([action]) is None


def test_arrays_of_any_layout_are_written():
    wide = np.arange(60_000, dtype=np.float32).reshape(100, 600)
    group = Group(Box(-np.inf, np.inf, (600,), np.float32))
    plan = StepPlan([group], np.arange(100), whole=True)
    for observation in (wide, np.asfortranarray(wide), np.repeat(wide, 2, axis=1)[:, ::2]):
        told = stepped(observation, 100)
        expected = reply(group, told, 100).SerializeToString()
        assert b"".join(plan.write_group(0, told)[0]) == expected


def test_what_a_peer_writes_in_another_way_is_left_to_protobuf():
    groups, actions = [Group()], [np.array([0, 1])]
    plans = StepPlans(groups, 2)
    raw = request(groups, actions, 2).SerializeToString()
    assert plans.read(raw) is not None
    backwards = request(groups, actions, 2)
    backwards.ClearField("sequence")
    strange = [
        b"",
        raw[:1],
        raw[:3],
        raw[:-1],
        raw + b"\x08\x01",
        b"\xff" * 20,
        backwards.SerializeToString() + numbered(300, b""),
        request(groups, [np.array([0, 1, 2])], 3).SerializeToString(),
        request(groups, actions, 2, [0, 1]).SerializeToString(),
        request(
            [Group(action_space=NUMBERS)], [np.zeros((2, 3), np.float32)], 2
        ).SerializeToString(),
        pb.SimRequest(sequence=300, reset=pb.Reset()).SerializeToString(),
    ]
    assert [plans.read(other) for other in strange] == [None] * len(strange)


def test_a_bool_that_is_none_is_not_read():
    for count in (3, 10_000):
        layout = Layout(delimited(1, tensor(np.dtype(np.bool_), (count,))))
        good = b"".join(layout.fill([np.ones(count, np.bool_)]))
        assert layout.read(good)[0].all()
        assert layout.read(good[:-2] + b"\x02\x01") is None


def test_what_is_read_can_not_be_written_to():
    layout = Layout(
        [*delimited(1, tensor(np.dtype(np.uint8), (2,))), *tensor(np.dtype("f8"), (1,))]
    )
    raw = b"".join(layout.fill([np.array([1, 2], np.uint8), np.array([0.5])]))
    for array in layout.read(raw):
        assert not array.flags.writeable and array.flags.aligned


def test_no_plan_where_a_row_has_no_arrays():
    for space in (Text(5), Dict({}), Dict(a=NUMBERS, b=Text(5))):
        plan = StepPlan([Group(space, space)], np.arange(1), whole=True)
        assert plan.write_request([spaces.batch(space, [space.sample()])]) is None
        told = stepped(spaces.batch(space, [space.sample()]), 1)
        assert plan.write_group(0, told) is None


def test_a_number_without_an_end_is_not_read_on() -> None:
    assert varint.decoded(varint.encoded(2**63), 0) == (2**63, 10)
    with pytest.raises(IndexError):
        varint.decoded(b"\x80" * 11 + b"\x01", 0)
    with pytest.raises(IndexError):
        varint.decoded(b"\x80", 0)
