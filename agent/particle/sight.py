"""What the numbers of Particle's observations are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.description import Group
from farsim.errors import Unsupported

FloatArray = NDArray[np.float64]

_PREFIX = "particle/"

#: What an agent hears, in scenarios where someone talks.
MESSAGE = "message"


def scenario_of(simulator: str) -> str:
    """The scenario that a simulator of the catalogue is, such as "simple_spread"; else empty."""
    return simulator.removeprefix(_PREFIX) if simulator.startswith(_PREFIX) else ""


@dataclass(frozen=True)
class Sight:
    """The parts of what an agent of one group observes.

    Attributes:
        group: whose.
        columns: of the observation, by name.
    """

    group: Group
    columns: Mapping[str, slice]

    def numbers(self, observation: NDArray[Any], name: str) -> FloatArray:
        """A part of observations [R, ...]: float64 [R, numbers]."""
        return observation[:, self.columns[name]].astype(np.float64)

    def points(self, observation: NDArray[Any], name: str) -> FloatArray:
        """A part that is points: float64 [R, points, 2]."""
        numbers = self.numbers(observation, name)
        return numbers.reshape(len(numbers), -1, 2)

    def point(self, observation: NDArray[Any], name: str) -> FloatArray:
        """A part that is one point: float64 [R, 2]."""
        return self.numbers(observation, name)


def sights(
    simulator: str, session_options: Mapping[str, Any], groups: Sequence[Group]
) -> tuple[Sight, ...]:
    """What each group sees.

    Args:
        simulator: its name on the server.
        session_options: the value of every parameter.
        groups: its groups.

    Raises:
        Unsupported: it is no scenario of Particle, or not the one that this knows.
    """
    parts = _PARTS.get(scenario_of(simulator))
    if parts is None:
        raise Unsupported(f"'{simulator}' is none of the nine Particle scenarios", simulator)
    counts = {name: int(value) for name, value in session_options.items() if name in _COUNTS}
    counts["others"] = sum(len(group.agents) for group in groups) - 1
    return tuple(_sight(simulator, group, parts(group.name, counts)) for group in groups)


def _sight(simulator: str, group: Group, parts: Sequence[tuple[str, int]]) -> Sight:
    columns = {}
    start = 0
    for name, width in parts:
        columns[name] = slice(start, start + width)
        start += width
    if group.observation_space.shape != (start,):
        raise Unsupported(
            f"group '{group.name}' of '{simulator}' observes {group.observation_space}, and this "
            f"expects {start} numbers",
            group.name,
        )
    return Sight(group, columns)


#: Parameters that observations depend on.
_COUNTS = ("N", "num_good", "num_obstacles", "num_food", "num_forests")

_Parts = list[tuple[str, int]]


def _simple(group: str, counts: Mapping[str, int]) -> _Parts:
    return [("velocity", 2), ("landmarks", 2)]


def _adversary(group: str, counts: Mapping[str, int]) -> _Parts:
    goal = [("goal", 2)] if group == "agents" else []
    return [*goal, ("landmarks", 2 * counts["N"]), ("others", 2 * counts["others"])]


def _crypto(group: str, counts: Mapping[str, int]) -> _Parts:
    return {
        "eve": [(MESSAGE, 4)],
        "bob": [("key", 4), (MESSAGE, 4)],
        "alice": [("goal", 4), ("key", 4)],
    }[group]


def _push(group: str, counts: Mapping[str, int]) -> _Parts:
    if group == "adversaries":
        return [("velocity", 2), ("landmarks", 4), ("others", 2)]
    own = [("velocity", 2), ("goal", 2), ("color", 3)]
    return [*own, ("landmarks", 4), ("colors", 6), ("others", 2)]


def _reference(group: str, counts: Mapping[str, int]) -> _Parts:
    return [("velocity", 2), ("landmarks", 6), ("known", 3), (MESSAGE, 10)]


def _speaker_listener(group: str, counts: Mapping[str, int]) -> _Parts:
    if group == "speaker":
        return [("known", 3)]
    return [("velocity", 2), ("landmarks", 6), (MESSAGE, 3)]


def _spread(group: str, counts: Mapping[str, int]) -> _Parts:
    own = [("velocity", 2), ("position", 2), ("landmarks", 2 * counts["N"])]
    return [*own, ("others", 2 * counts["others"]), ("silence", 2 * counts["others"])]


def _tag(group: str, counts: Mapping[str, int]) -> _Parts:
    own = [("velocity", 2), ("position", 2), ("landmarks", 2 * counts["num_obstacles"])]
    return [*own, ("others", 2 * counts["others"]), _good_velocities(group, counts)]


def _world_comm(group: str, counts: Mapping[str, int]) -> _Parts:
    parts = [("velocity", 2), ("position", 2)]
    parts += [("landmarks", 2 * counts["num_obstacles"]), ("food", 2 * counts["num_food"])]
    parts += [("forests", 2 * counts["num_forests"]), ("others", 2 * counts["others"])]
    inside = ("inside", counts["num_forests"])
    if group == "agents":
        return [*parts, inside, _good_velocities(group, counts)]
    return [*parts, _good_velocities(group, counts), inside, (MESSAGE, 4)]


def _good_velocities(group: str, counts: Mapping[str, int]) -> tuple[str, int]:
    """Of the good agents, but for the one that looks."""
    return "velocities", 2 * (counts["num_good"] - (group == "agents"))


_PARTS = {
    "simple": _simple,
    "simple_adversary": _adversary,
    "simple_crypto": _crypto,
    "simple_push": _push,
    "simple_reference": _reference,
    "simple_speaker_listener": _speaker_listener,
    "simple_spread": _spread,
    "simple_tag": _tag,
    "simple_world_comm": _world_comm,
}
