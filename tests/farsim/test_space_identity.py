"""When spaces are the same, and where they are not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
)
from hypothesis import given

from farsim import spaces
from tests.farsim.space_strategies import (
    EXAMPLES,
    all_spaces,
)

ROOT = Path(__file__).parents[2]

#: The first half of each digest of ``EXAMPLES``. Checkpoints carry digests: when one changes, old
#: checkpoints fit no simulator any more.
DIGESTS = {
    "box": "6555862d3744b2cbdb6908de00471cf7",
    "box with many bounds": "c280f7b57b547e20e3ff155075101b85",
    "box of bytes": "c834e9f9b42a1d559dbe9d81ab93bfd9",
    "box of bools": "352897548777efe1c958d4d5cb8ed38c",
    "scalar box": "b31ffa1f5bf7733be406f4a9b4cb0872",
    "empty box": "052fe3d8827bca2eac55246c8b636c78",
    "unbounded box of integers": "91a8efd229e95d17741394e13e97bbe3",
    "discrete": "ab70b38eb24a589282d305d6c297f727",
    "discrete that starts elsewhere": "4a5a723f20911f984bdafed720055c0d",
    "multi discrete": "c43a2b2b52dbf0db623fb9631ed5562d",
    "multi discrete with axes": "1c59d939f26a10a311ec01bb8e42a8d2",
    "multi binary": "c9c752e3b449d708fb27e3888bc520bc",
    "multi binary with axes": "84a9ffa1103ecf36c07dc1b6866542db",
    "text": "5c06dd30aa6f6e4ef0c7aebf57d9a39b",
    "tuple": "554ca5debee6653fa11bb712281ac81b",
    "dict": "9698234035d3c5570a7283577a6b3e35",
    "sequence": "eb8d77664e140661803964396b349124",
    "stacked sequence": "fcf23dca515881c4b79ea78204e23cd7",
    "sequence of sequences": "b680348ad4cd689462e6094fb8417bd7",
    "graph": "915107dfba5db00524e1d244a631efea",
    "graph without edges": "8d6e0d81f9fe5de65d6babb916381f26",
    "one of": "004568e5fdcc1ea49d4808d7fa4a1767",
}


class TestIdentity:
    def test_digests_never_change(self):
        assert {name: spaces.digest(space)[:32] for name, space in EXAMPLES.items()} == DIGESTS
        assert len(set(DIGESTS.values())) == len(EXAMPLES)

    def test_the_digest_is_that_of_a_text(self):
        space = Dict(
            [
                ("angle", Box(np.float32([-1, 0]), np.float32([1, 1]))),
                ("gear", Tuple((Discrete(5, start=-1), Text(4, charset="bé")))),
            ]
        )
        text = (
            '[["Dict",[],['
            '["angle",["Box",[["dtype","float32"],["shape",[2]],'
            '["low","000080bf00000000"],["high","0000803f"]],[]]],'
            '["gear",["Tuple",[],['
            '["0",["Discrete",[["dtype","int64"],["n",5],["start",-1]],[]]],'
            '["1",["Text",[["min_length",1],["max_length",4],["characters","b\\u00e9"]],[]]]'
            "]]]]]]"
        )
        assert spaces.digest(space) == hashlib.sha256(text.encode()).hexdigest()

    @given(all_spaces, all_spaces)
    def test_the_digest_is_the_same_exactly_if_there_is_no_difference(self, one, other):
        assert spaces.differences(one, one) == []
        same = spaces.digest(one) == spaces.digest(other)
        assert same == (spaces.differences(one, other) == [])
        assert not same or one == other

    def test_seeds_units_and_how_a_space_was_written_do_not_matter(self):
        plain = Dict(a=Box(-1, 1, (2,)), b=Text(3, charset="abc"))
        other = Dict(
            a=Box(np.float32([-1, -1]), np.float32([1, 1]), seed=5),
            b=Text(3, charset=frozenset("cba")),
            seed=7,
        )
        assert spaces.digest(plain) == spaces.digest(other)
        described = spaces.from_proto(spaces.to_proto(plain, {"a": "m"}))
        assert spaces.digest(described) == spaces.digest(plain)
        negative = Box(np.float32(-0.0), np.float32(1), ())
        assert spaces.digest(negative) == spaces.digest(Box(0, 1, ()))

    def test_the_digest_is_the_same_in_another_process(self):
        program = (
            "from gymnasium.spaces import Discrete, Text; from farsim.spaces import digest;"
            "print(digest(Text(3, charset=frozenset('abcdefgh')), Discrete(2)))"
        )
        here = spaces.digest(Text(3, charset="hgfedcba"), Discrete(2))
        for seed in ("1", "2"):
            there = subprocess.run(
                [sys.executable, "-c", program],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            )
            assert there.stdout.strip() == here

    def test_several_spaces_are_told_apart_by_their_order(self):
        a, b = Discrete(2), Discrete(3)
        assert spaces.digest(a, b) != spaces.digest(b, a)
        assert spaces.digest(a, b) != spaces.digest(Tuple((a, b)))

    @pytest.mark.parametrize(
        ("here", "there", "expected"),
        [
            (Discrete(2), Box(0, 1), ["Discrete here, Box there"]),
            (Discrete(2), Discrete(3, start=1), ["n 2 here, 3 there", "start 0 here, 1 there"]),
            (
                Box(0, 1, (3,)),
                Box(0, 1, (4,), np.float64),
                ["dtype 'float32' here, 'float64' there", "shape (3,) here, (4,) there"],
            ),
            (Box(0, 1, (3,)), Box(-1, 1, (3,)), ["low 0.0 here, -1.0 there"]),
            (Box(0, 1, (3,)), Box(0, np.float32([1, 2, 3])), ["high at [1] 1.0 here, 2.0 there"]),
            (MultiDiscrete([2, 3]), MultiDiscrete([2, 4]), ["n at [1] 3 here, 4 there"]),
            (
                Text(3, charset="ab"),
                Text(4, charset="ac"),
                ["max_length 3 here, 4 there", "characters 'ab' here, 'ac' there"],
            ),
            (
                Sequence(Discrete(2)),
                Sequence(Discrete(3), stack=True),
                ["stacked False here, True there", "element: n 2 here, 3 there"],
            ),
            (
                Graph(Discrete(2), None),
                Graph(Discrete(2), Discrete(3)),
                ["edge: there but not here"],
            ),
            (
                Dict(o=Dict(j=Box(0, 1, (3,)))),
                Dict(o=Dict(j=Box(0, 1, (4,)))),
                ["o/j: shape (3,) here, (4,) there"],
            ),
            (
                Dict(a=Discrete(2)),
                Dict(b=Discrete(2)),
                ["a: here but not there", "b: there but not here"],
            ),
            (
                Dict([("a", Discrete(2)), ("b", Discrete(2))]),
                Dict([("b", Discrete(2)), ("a", Discrete(2))]),
                ["order ['a', 'b'] here, ['b', 'a'] there"],
            ),
            (OneOf([Discrete(2)]), OneOf([Discrete(2), Discrete(3)]), ["1: there but not here"]),
        ],
    )
    def test_differences_say_what_and_where(self, here, there, expected):
        assert spaces.differences(here, there) == expected
