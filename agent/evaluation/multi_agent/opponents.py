"""Who plays against whom: the sides of a game, and the policies that each can have."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.description import Group
from agent.evaluation.multi_agent.policy import GroupPolicy, LineUp
from agent.evaluation.multi_agent.summary import TeamSummary, columns
from farsim.errors import InvalidArgument
from farsim.options import nearest

#: What an opponent may be besides a checkpoint.
RANDOM, SCRIPTED = "random", "scripted"


@dataclass(frozen=True)
class Wish:
    """One ``--opponent``.

    Attributes:
        groups: that it decides for.
        what: ``RANDOM``, ``SCRIPTED``, or a checkpoint's path.
    """

    groups: tuple[str, ...]
    what: str


def parse(texts: Sequence[str], known: Sequence[str]) -> list[Wish]:
    """Reads ``group=what`` and ``group+group=what``.

    Args:
        texts: as people write them.
        known: names of the simulator's groups.

    Raises:
        InvalidArgument: something else, a group that is not there, or sides that overlap.
    """
    wishes = []
    for text in texts:
        names, equals, what = text.partition("=")
        if not equals or not names or not what:
            raise InvalidArgument(
                f"write opponents as GROUP=CHECKPOINT, GROUP={RANDOM} or GROUP={SCRIPTED}, not "
                f"'{text}'",
                "opponent",
            )
        groups = tuple(name.strip() for name in names.split("+"))
        for name in groups:
            if name not in known:
                raise InvalidArgument(
                    f"--opponent {text}: there is no group '{name}'{nearest(name, known)}; the "
                    f"groups are {', '.join(known)}",
                    "opponent",
                )
        # In the simulator's order, so that the same side is written in one way.
        wishes.append(Wish(tuple(name for name in known if name in groups), what))
    sides = dict.fromkeys(wish.groups for wish in wishes)
    for one, other in itertools.combinations(sides, 2):
        both = {*one} & {*other}
        if both:
            raise InvalidArgument(
                f"--opponent: group '{both.pop()}' is in two sides, {'+'.join(one)} and "
                f"{'+'.join(other)}; write it with the same groups each time",
                "opponent",
            )
    return wishes


@dataclass(frozen=True)
class Side:
    """Groups that get their policies from the same place.

    Attributes:
        groups: their names.
        candidates: by label, a policy for each of the groups.
    """

    groups: tuple[str, ...]
    candidates: Mapping[str, Mapping[str, GroupPolicy]]

    @property
    def name(self) -> str:
        """For tables."""
        return "+".join(self.groups)


def sides_of(
    wishes: Sequence[Wish],
    groups: Sequence[Group],
    own: tuple[str, Mapping[str, GroupPolicy]],
    make: Callable[[str, Sequence[str]], tuple[str, Mapping[str, GroupPolicy]]],
) -> list[Side]:
    """The sides, each with its own policies first.

    Groups that no wish names are a side that has no others.

    Args:
        wishes: of ``parse``.
        groups: of the simulator.
        own: a label, and the policies of the checkpoint that is evaluated, by group.
        make: label and policies of what a wish names, for some groups; others are ignored.
    """
    label, policies = own
    named = list(dict.fromkeys(wish.groups for wish in wishes))
    rest = tuple(group.name for group in groups if not any(group.name in side for side in named))
    order = [group.name for group in groups]
    sides = []
    for side in sorted([*named, *([rest] if rest else [])], key=lambda side: order.index(side[0])):
        candidates: dict[str, Mapping[str, GroupPolicy]] = {
            label: {name: policies[name] for name in side}
        }
        for wish in wishes:
            if wish.groups == side:
                other, found = make(wish.what, side)
                chosen = {name: found[name] for name in side}
                candidates[_unused(other, candidates)] = chosen
        sides.append(Side(side, candidates))
    return sides


@dataclass(frozen=True)
class Match:
    """One choice of policies for all sides.

    Attributes:
        labels: by side.
        line_up: who plays.
    """

    labels: tuple[str, ...]
    line_up: LineUp


def matches(sides: Sequence[Side], groups: Sequence[Group]) -> Iterator[Match]:
    """Every candidate of each side against every one of the others."""
    for labels in itertools.product(*(side.candidates for side in sides)):
        chosen: dict[str, GroupPolicy] = {}
        for side, label in zip(sides, labels, strict=True):
            chosen |= side.candidates[label]
        line_up = LineUp(" / ".join(labels), [chosen[group.name] for group in groups])
        yield Match(labels, line_up)


def row(sides: Sequence[Side], match: Match, summary: TeamSummary) -> dict[str, Any]:
    """For CSV: who played, and what came out for each group."""
    found: dict[str, Any] = {
        side.name: label for side, label in zip(sides, match.labels, strict=True)
    }
    found["episodes"] = summary.episodes
    for name, group in summary.groups.items():
        found |= columns(f"{name}/return_each", group.each)
        for (info, kind), estimate in group.infos.items():
            found |= columns(f"{name}/{info}_{kind}", estimate)
    return found


def _unused(label: str, taken: Mapping[str, Any]) -> str:
    """``label``, with a number if another has it."""
    if label not in taken:
        return label
    return next(name for n in itertools.count(2) if (name := f"{label} ({n})") not in taken)
