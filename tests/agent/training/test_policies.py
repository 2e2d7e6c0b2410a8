"""Which policy decides for which agent, and what is said about mistakes."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from agent.description import Group
from agent.training.policies import InvalidPolicies, map_policies, read_wish

SEEN = Box(-1, 1, (4,), np.float32)
HUNTERS = Group("hunters", ("hunter_0", "hunter_1"), SEEN, Discrete(5), False)
SCOUTS = Group("scouts", ("scout_0",), SEEN, Discrete(5), False)
PREY = Group("prey", ("prey_0",), Box(-1, 1, (6,), np.float32), Discrete(5), False)
ALL = (HUNTERS, SCOUTS, PREY)


def test_one_policy_for_each_group():
    mapping = map_policies("group", ALL)
    assert mapping.by_agent == {
        "hunter_0": "hunters",
        "hunter_1": "hunters",
        "scout_0": "scouts",
        "prey_0": "prey",
    }
    assert mapping.policies == ("hunters", "scouts", "prey")


def test_one_policy_for_each_agent():
    assert map_policies("each", ALL).policies == ("hunter_0", "hunter_1", "scout_0", "prey_0")


def test_one_policy_for_all():
    assert map_policies("shared", (HUNTERS, SCOUTS)).policies == ("shared",)


def test_an_agents_own_entry_comes_before_its_groups():
    wish = {"hunters": "team", "hunter_1": "rogue", "scout_0": "team", "prey": "prey"}
    assert map_policies(wish, ALL).by_agent == {
        "hunter_0": "team",
        "hunter_1": "rogue",
        "scout_0": "team",
        "prey_0": "prey",
    }


def test_a_function_says_the_policy_of_each_agent(tmp_path: Path, monkeypatch):
    (tmp_path / "by_kind.py").write_text(
        "def kind(agent):\n    return agent.split('_')[0]\n\ndef broken(agent):\n    return 1 / 0\n"
        "\ndef number(agent):\n    return 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert map_policies("by_kind:kind", ALL).policies == ("hunter", "scout", "prey")
    for name, expected in (
        ("broken", "raised ZeroDivisionError"),
        ("number", "returned 7, which is not the name of a policy"),
        ("nothing", "module 'by_kind' has no function 'nothing'"),
    ):
        with pytest.raises(InvalidPolicies, match=expected):
            map_policies(f"by_kind:{name}", ALL)


def test_rllib_can_ask_and_pickle_a_mapping():
    mapping = pickle.loads(pickle.dumps(map_policies("group", ALL)))
    assert mapping("prey_0", None, worker=None) == "prey"


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ("shared", "'hunter_0' and 'prey_0' cannot share policy 'shared': their spaces differ"),
        ({"hunter": "a"}, "none is 'hunter'; did you mean 'hunters'"),
        ({"hunters": "a", "prey": "b"}, "say nothing of agent 'scout_0': name it, or its group"),
        ({"hunters": "a/b", "scouts": "c", "prey": "d"}, "cannot be named 'a/b'"),
        ({"hunters": "default_policy", "scouts": "c", "prey": "d"}, "cannot be named"),
        ("missing.module:function", "cannot import 'missing.module'"),
    ],
)
def test_mistakes_are_errors_that_say_what(wish, expected):
    with pytest.raises(InvalidPolicies, match=re.escape(expected)):
        map_policies(wish, ALL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("each", "each"),
        ("module:function", "module:function"),
        ("{hunters: a, prey_0: b}", {"hunters": "a", "prey_0": "b"}),
    ],
)
def test_the_command_line_takes_words_and_mappings(text, expected):
    assert read_wish(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eech", "--policies: .* not 'eech'; did you mean 'each'"),
        ("[a, b]", "not \\['a', 'b'\\]"),
        ("{a", "--policies {a"),
    ],
)
def test_other_words_are_errors(text, expected):
    with pytest.raises(InvalidPolicies, match=expected):
        read_wish(text)
