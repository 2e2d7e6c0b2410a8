"""Spaces of every kind as messages and back; what a peer may get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from gymnasium import Space
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Text,
    Tuple,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from farsim import spaces, tensors
from farsim.errors import InvalidArgument, InvalidTensor, Unsupported
from farsim.spaces import parsing
from farsim.v1 import simulator_pb2, space_pb2, tensor_pb2
from tests.farsim.space_strategies import (
    EXAMPLES,
    all_spaces,
)

EACH = pytest.mark.parametrize("space", EXAMPLES.values(), ids=EXAMPLES)


def sent(message):
    """``message`` as it arrives at the other side."""
    return type(message).FromString(message.SerializeToString())


class TestDescription:
    @EACH
    def test_examples_come_back_equal(self, space):
        received = spaces.from_proto(sent(spaces.to_proto(space)))
        assert received == space
        assert spaces.digest(received) == spaces.digest(space)

    @given(all_spaces)
    def test_any_space_comes_back_equal(self, space):
        received = spaces.from_proto(sent(spaces.to_proto(space)))
        assert received == space
        assert type(received) is type(space)
        assert spaces.differences(space, received) == []
        assert spaces.to_proto(received) == spaces.to_proto(space)

    def test_the_order_of_members_is_kept(self):
        space = Dict([("z", Discrete(2)), ("a", Discrete(3))])
        assert list(spaces.from_proto(spaces.to_proto(space)).spaces) == ["z", "a"]

    def test_one_dimension_of_bits_is_the_usual_multi_binary(self):
        assert spaces.from_proto(spaces.to_proto(MultiBinary([3]))) == MultiBinary(3)

    def test_the_messages_are_those_of_the_contract(self):
        space = Dict(
            [
                ("angle", Box(-1, 1, (2,), np.float32)),
                ("gear", Discrete(5, start=-1)),
                ("note", Text(4, min_length=0, charset="ba")),
            ]
        )
        scalar = {"dtype": tensor_pb2.DTYPE_FLOAT32}
        expected = space_pb2.Space(
            dict=space_pb2.Dict(
                members=[
                    space_pb2.Dict.Member(
                        name="angle",
                        unit="rad",
                        space=space_pb2.Space(
                            box=space_pb2.Box(
                                dtype=tensor_pb2.DTYPE_FLOAT32,
                                shape=[2],
                                low=tensor_pb2.Tensor(**scalar, data=b"\x00\x00\x80\xbf"),
                                high=tensor_pb2.Tensor(**scalar, data=b"\x00\x00\x80\x3f"),
                            )
                        ),
                    ),
                    space_pb2.Dict.Member(
                        name="gear",
                        space=space_pb2.Space(
                            discrete=space_pb2.Discrete(n=5, start=-1, dtype=tensor_pb2.DTYPE_INT64)
                        ),
                    ),
                    space_pb2.Dict.Member(
                        name="note",
                        space=space_pb2.Space(
                            text=space_pb2.Text(min_length=0, max_length=4, characters="ab")
                        ),
                    ),
                ]
            )
        )
        assert spaces.to_proto(space, {"angle": "rad"}) == expected

    def test_integer_dtypes_may_be_left_out(self):
        discrete = space_pb2.Space(discrete=space_pb2.Discrete(n=3))
        assert spaces.from_proto(discrete) == Discrete(3, dtype=np.int64)
        n = tensors.pack(np.array([2, 3]))
        multi_discrete = space_pb2.Space(multi_discrete=space_pb2.MultiDiscrete(n=n))
        assert spaces.from_proto(multi_discrete) == MultiDiscrete([2, 3])

    def test_units_travel_beside_the_space(self):
        space = Tuple((Dict({"arm": Sequence(Dict({"angle": Box(-1, 1, ())}))}),))
        units = {"0/arm": "arms", "0/arm/element/angle": "rad"}
        message = spaces.to_proto(space, units)
        assert spaces.units(message) == units
        assert spaces.from_proto(message) == space

    def test_a_unit_for_nothing_is_an_error(self):
        with pytest.raises(InvalidArgument, match=r"units for \['angel'\]"):
            spaces.to_proto(Dict({"angle": Box(-1, 1, ())}), {"angel": "rad"})

    def test_subclasses_are_described_as_the_kind_that_they_are(self):
        class Angle(Box):
            pass

        assert type(spaces.from_proto(spaces.to_proto(Angle(-1, 1, ())))) is Box

    @pytest.mark.parametrize(
        ("space", "complaint"),
        [
            (Space(), "Space is none of the kinds .* Box, Discrete"),
            (Dict({1: Discrete(2)}), "must be strings, not 1"),
            (
                Tuple((Box(0, 1, (), np.longdouble),)),
                "^at '0': dtype float128 cannot travel",
            ),
            (Discrete(3, start=np.uint64(2**63), dtype=np.uint64), "over 2\\*\\*63"),
            (MultiDiscrete([3], np.uint64, start=np.array([2**63], np.uint64)), "over"),
            (Text(2**32), "max_length 4294967296 is over"),
            (Text(2, charset=frozenset({"ab"})), "single code points"),
            (Text(2, charset="\ud800"), "not valid Unicode"),
            (Dict({"\ud800": Discrete(2)}), "not valid Unicode"),
        ],
    )
    def test_what_the_contract_lacks_is_unsupported(self, space, complaint):
        with pytest.raises(Unsupported, match=complaint):
            spaces.to_proto(space)

    def test_the_deepest_space_fits_a_reply(self):
        space: Space = Box(0, 1, ())
        for _ in range(parsing.MAX_DEPTH - 1):
            space = Dict({"a": space})
        group = simulator_pb2.Group(action_space=spaces.to_proto(space))
        simulator = simulator_pb2.SimulatorDescription(groups=[group])
        reply = sent(simulator_pb2.DescribeReply(simulators=[simulator]))
        assert spaces.from_proto(reply.simulators[0].groups[0].action_space) == space
        with pytest.raises(InvalidArgument, match="at most 32 spaces inside each other"):
            spaces.to_proto(Dict({"a": space}))


F4 = tensor_pb2.DTYPE_FLOAT32


def box(dtype=F4, shape=(2,), low=None, high=None):
    low = tensors.pack(np.float32(0)) if low is None else low
    high = tensors.pack(np.float32(1)) if high is None else high
    return space_pb2.Space(box=space_pb2.Box(dtype=dtype, shape=shape, low=low, high=high))


def discrete(**fields):
    return space_pb2.Space(discrete=space_pb2.Discrete(**fields))


def multi_discrete(n, start=None, **fields):
    start = None if start is None else tensors.pack(np.array(start))
    message = space_pb2.MultiDiscrete(n=tensors.pack(np.array(n)), start=start, **fields)
    return space_pb2.Space(multi_discrete=message)


def text(**fields):
    return space_pb2.Space(text=space_pb2.Text(**fields))


def tuple_of(*members):
    return space_pb2.Space(tuple=space_pb2.Tuple(members=members))


def dict_of(*members):
    pairs = [space_pb2.Dict.Member(name=name, space=space) for name, space in members]
    return space_pb2.Space(dict=space_pb2.Dict(members=pairs))


def stacked(element):
    return space_pb2.Space(sequence=space_pb2.Sequence(element=element, stacked=True))


def graph(node, edge=None):
    return space_pb2.Space(graph=space_pb2.Graph(node=node, edge=edge))


def nested(levels, wrap):
    message = discrete(n=2)
    for _ in range(levels):
        message = wrap(message)
    return message


class TestHostileDescription:
    @pytest.mark.parametrize(
        ("message", "error", "path", "complaint"),
        [
            (
                space_pb2.Space(),
                InvalidArgument,
                "",
                "no kind of space is set; expected one of box",
            ),
            (box(dtype=0), InvalidArgument, "", "found unspecified"),
            (box(dtype=77), InvalidArgument, "", "found 77"),
            (box(shape=[-1]), InvalidArgument, "", r"at least 0, found \[-1\]"),
            (box(shape=[1] * 32), InvalidArgument, "", "at most 31 dimensions, found 32"),
            (box(shape=[2**31, 2]), InvalidArgument, "", "more than 1073741824 bytes"),
            (box(shape=[2**62, 2**62]), InvalidArgument, "", "more than 1073741824 bytes"),
            (box(shape=[2**62, 2**62, 0]), InvalidArgument, "", "more than 1073741824 bytes"),
            (space_pb2.Space(box=space_pb2.Box(dtype=F4)), InvalidArgument, "", "low is missing"),
            (
                box(low=tensors.pack(np.float64(0))),
                InvalidTensor,
                "",
                "low of dtype float32, found float64",
            ),
            (
                box(low=tensors.pack(np.zeros(3, "f4"))),
                InvalidTensor,
                "",
                r"low of shape \[\] or \[2\], found \[3\]",
            ),
            (
                box(high=tensor_pb2.Tensor(dtype=F4, data=b"\0")),
                InvalidTensor,
                "",
                "high: expected 4 bytes",
            ),
            (box(high=tensors.pack(np.float32(np.nan))), InvalidTensor, "", "high is not a number"),
            (
                box(low=tensors.pack(np.float32([0, 2]))),
                InvalidArgument,
                "",
                r"low 2.0 is above high 1.0 at \[1\]",
            ),
            (discrete(n=0), InvalidArgument, "", "n of at least 1, found 0"),
            (discrete(n=-(2**63)), InvalidArgument, "", "n of at least 1"),
            (discrete(n=2, dtype=F4), InvalidArgument, "", "an integer dtype, found float32"),
            (
                discrete(n=2, dtype=tensor_pb2.DTYPE_BOOL),
                InvalidArgument,
                "",
                "integer dtype, found bool",
            ),
            (
                discrete(n=256, dtype=tensor_pb2.DTYPE_UINT8),
                InvalidArgument,
                "",
                "fit uint8, found n 256",
            ),
            (
                discrete(n=2, start=-1, dtype=tensor_pb2.DTYPE_UINT8),
                InvalidArgument,
                "",
                "from -1 to 0",
            ),
            (discrete(n=2, start=2**63 - 1), InvalidArgument, "", "fit int64"),
            (
                space_pb2.Space(multi_discrete=space_pb2.MultiDiscrete()),
                InvalidArgument,
                "",
                "n is missing",
            ),
            (multi_discrete([2, 0]), InvalidArgument, "", "n of at least 1, found 0"),
            (multi_discrete([2, 3], [1]), InvalidTensor, "", r"start of shape \[2\], found \[1\]"),
            (multi_discrete([2.0]), InvalidTensor, "", "n of dtype int64, found float64"),
            (multi_discrete([2], [2.0]), InvalidTensor, "", "start of dtype int64"),
            (
                multi_discrete([2**62, 2**63 - 1], [2**62, 2]),
                InvalidArgument,
                "",
                "fit int64, found n 9223372036854775807",
            ),
            (
                multi_discrete([9], [120], dtype=tensor_pb2.DTYPE_INT8),
                InvalidArgument,
                "",
                "from 120 to 128",
            ),
            (
                space_pb2.Space(multi_binary=space_pb2.MultiBinary(shape=[0])),
                InvalidArgument,
                "",
                "at least 1",
            ),
            (
                space_pb2.Space(multi_binary=space_pb2.MultiBinary(shape=[2**40])),
                InvalidArgument,
                "",
                "bytes",
            ),
            (
                text(min_length=3, max_length=2),
                InvalidArgument,
                "",
                "min_length 3 is above max_length 2",
            ),
            (text(max_length=2, characters="aba"), InvalidArgument, "", "each character once"),
            (tuple_of(discrete(n=2), space_pb2.Space()), InvalidArgument, "1", "^at '1': no kind"),
            (
                dict_of(("a", tuple_of(discrete(n=0)))),
                InvalidArgument,
                "a/0",
                "^at 'a/0': expected n",
            ),
            (dict_of(("a", discrete(n=2)), ("a", discrete(n=2))), InvalidArgument, "", "'a' twice"),
            (space_pb2.Space(sequence=space_pb2.Sequence()), InvalidArgument, "element", "no kind"),
            (
                space_pb2.Space(graph=space_pb2.Graph()),
                InvalidArgument,
                "node",
                "a box or a discrete, found no",
            ),
            (graph(text(max_length=1)), InvalidArgument, "node", "a box or a discrete, found text"),
            (graph(discrete(n=2), tuple_of()), InvalidArgument, "edge", "found tuple"),
            (space_pb2.Space(one_of=space_pb2.OneOf()), InvalidArgument, "", "at least one member"),
            (nested(32, tuple_of), InvalidArgument, "/".join("0" * 32), "at most 32 spaces inside"),
            (nested(30, stacked), InvalidArgument, "/".join(["element"] * 19), "bytes of memory"),
        ],
    )
    def test_it_is_refused_with_what_and_where(self, message, error, path, complaint):
        with pytest.raises(error, match=complaint) as caught:
            spaces.from_proto(message)
        assert type(caught.value) is error
        assert caught.value.subject == path

    def test_the_members_count_together(self, monkeypatch):
        monkeypatch.setattr(parsing, "MAX_BYTES", 2**20)
        half = box(shape=[2**16])
        spaces.from_proto(tuple_of(half))
        with pytest.raises(InvalidArgument, match=r"^at '1': .*more than 1048576 bytes of memory"):
            spaces.from_proto(tuple_of(half, half))
        with pytest.raises(InvalidArgument, match=r"^at '511': "):
            spaces.from_proto(tuple_of(*[tuple_of()] * 1000))
        with pytest.raises(InvalidArgument, match=r"^at 'element': "):
            spaces.from_proto(stacked(half))

    @settings(max_examples=300)
    @given(all_spaces, st.data())
    def test_garbled_bytes_never_raise_anything_else(self, space, data):
        garbled = bytearray(spaces.to_proto(space).SerializeToString())
        for _ in range(data.draw(st.integers(1, 3))):
            if garbled:
                garbled[data.draw(st.integers(0, len(garbled) - 1))] = data.draw(
                    st.integers(0, 255)
                )
        try:
            message = space_pb2.Space.FromString(bytes(garbled))
        except DecodeError:
            return
        limit, parsing.MAX_BYTES = parsing.MAX_BYTES, 2**22
        try:
            received = spaces.from_proto(message)
        except (InvalidArgument, InvalidTensor):
            return
        finally:
            parsing.MAX_BYTES = limit
        assert spaces.from_proto(spaces.to_proto(received)) == received
