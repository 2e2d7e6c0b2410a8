"""DeepRM's heuristics as policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agent.deeprm import heuristics
from agent.deeprm.heuristics import Actions
from agent.deeprm.observation import Cluster, CompactObservation
from agent.evaluation.policy import MaskedRandomPolicy, Policy

#: What a session for them needs, whatever the policy was trained on.
OPTIONS = {"observation": "compact", "normalize_compact": 0}

Infos = Mapping[str, Any]


class HeuristicPolicy:
    """A heuristic that reads compact observations."""

    def __init__(
        self,
        name: str,
        layout: CompactObservation,
        choose: Callable[[Cluster, Infos], Actions],
    ) -> None:
        self.name = name
        self._layout = layout
        self._choose = choose

    def begin(self, num_envs: int) -> None:
        pass

    def act(self, observation: Any, infos: Infos) -> Actions:
        return self._choose(self._layout.read(observation), infos)


class RandomSlots:
    """Uniform over all slots and the void action, allowed or not; the original's Random."""

    def __init__(self, num_nw: int, seed: int) -> None:
        self.name = "random"
        self._num_nw = num_nw
        self._seed = seed
        self._random = np.random.default_rng(seed)

    def begin(self, num_envs: int) -> None:
        self._random = np.random.default_rng(self._seed)

    def act(self, observation: Any, infos: Infos) -> Actions:
        return heuristics.random_action(self._random, len(observation), self._num_nw)


def textbook(session_options: Mapping[str, Any], seed: int) -> list[Policy]:
    """The policies to compare with on DeepRM.

    Args:
        session_options: the value of every parameter of the simulator.
        seed: of the random ones.
    """
    layout = CompactObservation.from_options({**session_options, **OPTIONS})
    until = int(session_options["simu_len"])
    longest_short = layout.max_job_len // 2

    def hold(cluster: Cluster, infos: Infos) -> Actions:
        return heuristics.hold_long_jobs(
            cluster, infos["time"], until=until, longest_short=longest_short
        )

    knob = heuristics.COMBINED_KNOB
    policies: list[Policy] = [
        HeuristicPolicy("hold long jobs", layout, hold),
        HeuristicPolicy("SJF", layout, lambda cluster, _: heuristics.shortest_job_first(cluster)),
        HeuristicPolicy(
            f"combined ({knob:g})",
            layout,
            lambda cluster, _: heuristics.combined(cluster, knob),
        ),
        HeuristicPolicy("Packer", layout, lambda cluster, _: heuristics.packer(cluster)),
        RandomSlots(layout.num_nw, seed),
    ]
    if session_options["action_mask"] != "none":
        policies.append(MaskedRandomPolicy(0, seed))
    return policies
