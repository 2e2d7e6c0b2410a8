import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple

from simserver.gateway.bonsai import schema
from simserver.gateway.bonsai.schema import SchemaError

VALVE = {
    "category": "Number",
    "namedValues": [{"name": "open", "value": 5}, {"name": "shut", "value": 0}],
}
NUMBER = {"category": "Number"}


def struct_of(kind):
    return {"category": "Struct", "fields": [{"name": "x", "type": kind}]}


def array_of(kind, length=2):
    return {"category": "Array", "type": kind, "length": length}


@pytest.mark.parametrize(
    ("kind", "role", "space", "value", "member"),
    [
        (NUMBER, "state", Box(-np.inf, np.inf, (), np.float64), 2.5, 2.5),
        ({**NUMBER, "start": 0, "stop": 9}, "action", Box(0, 9, (), np.float32), 4.0, 4),
        ({**NUMBER, "start": 0, "stop": 9, "step": 1}, "state", Box(0, 9, (), np.int64), 4, 4),
        ({**NUMBER, "start": -1, "stop": 9, "step": 1}, "action", Discrete(11, start=-1), -1, -1),
        ({**NUMBER, "start": 0, "stop": 1, "step": 0.25}, "action", Discrete(5), 0.75, 3),
        (VALVE, "action", Discrete(2), 5, 1),
        (VALVE, "state", Discrete(2), 0, 0),
        ({"category": "String", "values": ["red", "green"]}, "state", Discrete(2), "green", 1),
        ({"category": "String"}, "state", Text(1024, min_length=0), "abc", "abc"),
        (array_of(NUMBER, 3), "state", Box(-np.inf, np.inf, (3,), np.float64), [1, 2, 3], None),
        (array_of(array_of(NUMBER)), "state", Box(-np.inf, np.inf, (2, 2), np.float64), None, None),
        (array_of(VALVE), "action", MultiDiscrete([2, 2]), [5, 0], None),
        (array_of(struct_of(VALVE)), "action", Tuple([Dict(x=Discrete(2))] * 2), None, None),
    ],
)
def test_spaces_and_values(kind, role, space, value, member):
    read = schema.read(struct_of(kind), role)
    assert read.space == Dict(x=space)
    sample = read.space.sample()
    again = read.from_json(read.to_json(sample), role)
    assert again in read.space
    if value is not None:
        there = read.from_json({"x": value}, role)
        assert there in read.space
        assert member is None or there["x"] == member
        assert read.to_json(there) == {"x": value}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "state has no 'x'"),
        ({"x": "1"}, "state.x is '1', not a number"),
        ({"x": float("nan")}, "state.x is nan, not a number"),
        ({"x": 11}, "state.x is 11, outside of 0 to 10"),
        ([1], "not an object"),
    ],
)
def test_values_that_are_not_as_described(value, message):
    read = schema.read(struct_of({**NUMBER, "start": 0, "stop": 10}), "state")
    with pytest.raises(SchemaError, match=message):
        read.from_json(value, "state")


def test_rounding_at_a_bound_is_no_error():
    read = schema.read(struct_of({**NUMBER, "start": 0, "stop": 10}), "state")
    assert read.from_json({"x": 10.000000001}, "state")["x"] == 10


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (NUMBER, "state has to be a Struct"),
        ({"category": "Struct"}, "needs a list of fields"),
        (struct_of({"category": "Image"}), "state.x: the category is one of"),
        (struct_of({**NUMBER, "start": 2, "stop": 1}), "state.x: no range from 2 to 1"),
        (struct_of(array_of(NUMBER, 0)), "state.x: an Array needs a length"),
        (struct_of({**NUMBER, "start": "low"}), "state.x: .* is no type"),
    ],
)
def test_descriptions_that_can_not_be_used(document, message):
    with pytest.raises(SchemaError, match=message):
        schema.read(document, "state")
