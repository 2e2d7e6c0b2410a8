"""What a simple rule makes of the same episode, in a simulator of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from farsim.errors import SimulatorFault
from simserver.catalogue import Entry
from simserver.live.world import Moment, World


@dataclass
class Score:
    """How an episode goes.

    Attributes:
        steps: how many actions have been taken.
        total: of the rewards, over all agents.
        by_clock: the total at each time of the simulator's clock, where it has one.
        slowdown: DeepRM's mean slowdown of the jobs placed, once the episode has ended.
    """

    steps: int = 0
    total: float = 0.0
    by_clock: dict[int, float] = field(default_factory=dict)
    slowdown: float | None = None

    def note(self, moment: Moment) -> None:
        """Counts one step."""
        self.steps += 1
        self.total += sum(moment.rewards.values())
        self.by_clock[clock(moment, self.steps)] = self.total
        if "slowdown" in moment.infos and moment.ended:
            self.slowdown = float(moment.infos["slowdown"])

    def at(self, time: int) -> float:
        """The total at a time; after the end, the last one."""
        return self.by_clock.get(time, self.total)


def clock(moment: Moment, steps: int) -> int:
    """The simulator's own time if it tells it, else the number of steps."""
    return int(moment.infos.get("time", steps))


class Rival:
    """Plays whole episodes by a rule: shortest job first in DeepRM, at random elsewhere.

    Args:
        entry: the simulator.
        options: values of its parameters.
    """

    def __init__(self, entry: Entry, options: Mapping[str, Any]) -> None:
        self._is_deeprm = _is_deeprm(entry)
        if self._is_deeprm:
            # The jobs are those of the seed, whatever of them is seen.
            options = {
                **options,
                "observation": "compact",
                "normalize_compact": False,
                "action_mask": "fits_now",
            }
        self._world = World(entry, options)

    def play(self, seed: int) -> Score:
        """One episode, from beginning to end."""
        score = Score()
        rng = np.random.default_rng(seed % 2**64)
        moment = self._world.reset(seed)
        while len(moment.ended) < len(moment.observations):
            moment = self._world.step(self.act(moment, rng))
            if moment.fault is not None:
                raise SimulatorFault(f"the simulator failed: {moment.fault}")
            score.note(moment)
        return score

    def act(self, moment: Moment, rng: np.random.Generator) -> dict[str, Any]:
        """What the rule does."""
        if not self._is_deeprm:
            return self._world.sample(moment, rng)
        ((agent, observation),) = moment.observations.items()
        ((mask,),) = moment.masks.values()
        return {agent: shortest_job_first(observation, mask, self._world.options)}

    def close(self) -> None:
        self._world.close()


def shortest_job_first(
    observation: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], options: Mapping[str, Any]
) -> int:
    """The slot of the shortest job that fits now, else the void action.

    Args:
        observation: compact and not normalised, float32 [(R + 1) * (H + M) + 1].
        mask: bool [M + 1], the slots whose job fits now, and the void action.
        options: the simulator's parameters.
    """
    slots, resources = int(options["num_nw"]), int(options["num_res"])
    first = (1 + resources) * int(options["time_horizon"])
    lengths = observation[first:-1].reshape(slots, 1 + resources)[:, 0]
    fitting = np.flatnonzero(mask[:slots])
    return int(fitting[lengths[fitting].argmin()]) if len(fitting) else slots


def rule_for(entry: Entry) -> str:
    """The name of the rule that plays a simulator."""
    return "SJF" if _is_deeprm(entry) else "random"


def _is_deeprm(entry: Entry) -> bool:
    names = {parameter.name for parameter in entry.parameters}
    return {"num_nw", "simu_len", "observation", "normalize_compact"} <= names
