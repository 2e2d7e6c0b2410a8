import json

import numpy as np
import pytest

from agent.live import states
from agent.live.numbers import Numbers
from farsim import tensors
from farsim.errors import InvalidArgument, Unsupported
from farsim.v1 import tensor_pb2

STATE = {
    "h": np.arange(6, dtype=np.float32).reshape(2, 3),
    "frames": [np.ones(2, np.uint8), (np.float64(0.5), None, "text", 3, True)],
    "empty": {},
}


def test_a_state_comes_back_as_it_was():
    back = states.from_bytes("p", states.to_bytes("p", STATE))
    assert (back["h"] == STATE["h"]).all() and back["h"].dtype == np.float32
    assert back["h"].flags.writeable
    assert back["frames"][1][1:] == (None, "text", 3, True) and back["frames"][1][0] == 0.5
    assert back["empty"] == {}
    assert states.same_form(back, states.from_bytes("p", states.to_bytes("p", STATE)))


def test_it_is_bound_to_its_policy():
    with pytest.raises(InvalidArgument, match="policy 'q'"):
        states.from_bytes("q", states.to_bytes("p", STATE))


def skeleton(content):
    head = tensors.pack(np.frombuffer(json.dumps(["p", content]).encode(), np.uint8))
    return tensor_pb2.Value(tensors=[head]).SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        skeleton(None),
        skeleton({"a": 0}),
        skeleton({"a": -1}),
        skeleton({"x": 0}),
        skeleton({"v": []}),
        skeleton({"l": 3}),
        skeleton({"d": {}, "l": []}),
    ],
)
def test_other_bytes_are_refused(data):
    with pytest.raises(InvalidArgument):
        states.from_bytes("p", data)


def test_what_is_too_deep_is_refused():
    text = '{"l":[' * 5000 + '{"v":1}' + "]}" * 5000
    head = tensors.pack(np.frombuffer(f'["p",{text}]'.encode(), np.uint8))
    with pytest.raises(InvalidArgument):
        states.from_bytes("p", tensor_pb2.Value(tensors=[head]).SerializeToString())


def test_objects_do_not_travel():
    with pytest.raises(Unsupported, match="set"):
        states.to_bytes("p", {"a": {1, 2}})


@pytest.mark.parametrize(
    "other",
    [{"h": np.zeros(3)}, {"h": np.zeros(2, np.float32)}, {"g": np.zeros(2)}, None, {"h": 1}],
)
def test_forms_that_differ(other):
    assert not states.same_form({"h": np.zeros(2)}, other)


def test_numbers_take_no_room_while_they_follow_one_another():
    used = Numbers()
    for number in (5, 7, 6, 2**64 - 1, 8, 8, 3):
        used.add(number)
    assert all(number in used for number in (3, 5, 6, 7, 8, 2**64 - 1))
    assert not any(number in used for number in (0, 4, 9))
    assert used._others == {3, 2**64 - 1}
