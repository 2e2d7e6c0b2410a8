"""Who plays against whom."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from agent.evaluation.multi_agent.opponents import Wish, matches, parse, sides_of
from farsim.errors import InvalidArgument

GROUPS: Any = [SimpleNamespace(name=name) for name in ("leader", "adversaries", "agents")]
NAMES = [group.name for group in GROUPS]


def own() -> tuple[str, dict[str, Any]]:
    return "mine", {name: f"mine {name}" for name in NAMES}


def make(what: str, groups: Sequence[str]) -> tuple[str, dict[str, Any]]:
    # All of them, whatever is asked for.
    return what, {name: f"{what} {name}" for name in NAMES}


def test_opponents_are_read():
    assert parse(["agents=random", "adversaries+leader=runs/a=b"], NAMES) == [
        Wish(("agents",), "random"),
        Wish(("leader", "adversaries"), "runs/a=b"),
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["agents"], "GROUP=CHECKPOINT"),
        (["=random"], "GROUP=CHECKPOINT"),
        (["agents="], "GROUP=CHECKPOINT"),
        (["agent=random"], "no group 'agent'; did you mean 'agents'"),
        (["leader+prey=random"], "no group 'prey'.*leader, adversaries, agents"),
        (["leader=random", "leader+adversaries=random"], "'leader' is in two sides"),
    ],
)
def test_what_is_no_opponent_is_an_error(texts, message):
    with pytest.raises(InvalidArgument, match=message):
        parse(texts, NAMES)


def test_each_candidate_of_a_side_meets_each_of_the_other_and_decides_for_its_side_only():
    wishes = parse(["agents=random", "leader+adversaries=random", "agents=other"], NAMES)
    sides = sides_of(wishes, GROUPS, own(), make)
    assert [side.name for side in sides] == ["leader+adversaries", "agents"]
    found = {match.labels: list(match.line_up.policies) for match in matches(sides, GROUPS)}
    assert found == {
        (hunters, prey): [f"{hunters} leader", f"{hunters} adversaries", f"{prey} agents"]
        for hunters in ("mine", "random")
        for prey in ("mine", "random", "other")
    }


def test_groups_that_nobody_names_are_a_side_of_their_own():
    sides = sides_of(parse(["adversaries=random"], NAMES), GROUPS, own(), make)
    assert [side.groups for side in sides] == [("leader", "agents"), ("adversaries",)]
    assert [*sides[0].candidates] == ["mine"]


def test_two_of_one_name_are_told_apart():
    sides = sides_of(parse(["agents=random", "agents=random"], NAMES), GROUPS, own(), make)
    assert [*sides[1].candidates] == ["mine", "random", "random (2)"]
