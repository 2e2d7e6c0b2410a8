"""Playing one episode with several agents in each environment of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchedValue
from agent.evaluation.multi_agent.policy import LineUp
from agent.group_step import MultiAgentStep, RowInfos
from agent.remote_multi_agent_vector_env import RemoteMultiAgentVectorEnv

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class AgentNumbers:
    """One number of a group's infos: float64 [n, A], NaN where an agent never had it.

    Attributes:
        mean: over the steps in which it was given.
        last: in the last one.
    """

    mean: FloatArray
    last: FloatArray


@dataclass(frozen=True)
class GroupEpisodes:
    """One group's side of n episodes.

    Attributes:
        agents: their names, A of them.
        returns: float64 [n, A], undiscounted.
        infos: by name.
    """

    agents: tuple[str, ...]
    returns: FloatArray
    infos: Mapping[str, AgentNumbers] = field(default_factory=dict)

    def select(self, episodes: BoolArray) -> GroupEpisodes:
        """Some of them."""
        infos = {
            name: AgentNumbers(numbers.mean[episodes], numbers.last[episodes])
            for name, numbers in self.infos.items()
        }
        return GroupEpisodes(self.agents, self.returns[episodes], infos)


@dataclass(frozen=True)
class TeamEpisodes:
    """What n episodes came to, in the order of their seeds.

    Attributes:
        groups: by name.
        lengths: int64 [n], in steps.
        truncated: bool [n]: some agent was stopped from outside.
        faulty: bool [n]: cut short by a fault; such an episode says nothing about a policy.
    """

    groups: Mapping[str, GroupEpisodes]
    lengths: NDArray[np.int64]
    truncated: BoolArray
    faulty: BoolArray

    @property
    def returns(self) -> FloatArray:
        """Summed over all agents, [n]."""
        return np.sum([group.returns.sum(axis=1) for group in self.groups.values()], axis=0)

    @property
    def good(self) -> TeamEpisodes:
        """Those without a fault."""
        good = ~self.faulty
        groups = {name: group.select(good) for name, group in self.groups.items()}
        return TeamEpisodes(groups, self.lengths[good], self.truncated[good], self.faulty[good])

    @classmethod
    def join(cls, parts: Sequence[TeamEpisodes]) -> TeamEpisodes:
        """Several in one, one after the other."""
        return cls(
            {name: _join([part.groups[name] for part in parts]) for name in parts[0].groups},
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.truncated for part in parts]),
            np.concatenate([part.faulty for part in parts]),
        )


def _join(parts: Sequence[GroupEpisodes]) -> GroupEpisodes:
    names = dict.fromkeys(name for part in parts for name in part.infos)
    infos = {}
    for name in names:
        found = []
        for part in parts:
            nothing = np.full(part.returns.shape, np.nan)
            found.append(part.infos.get(name, AgentNumbers(nothing, nothing)))
        infos[name] = AgentNumbers(
            np.concatenate([numbers.mean for numbers in found]),
            np.concatenate([numbers.last for numbers in found]),
        )
    return GroupEpisodes(parts[0].agents, np.concatenate([part.returns for part in parts]), infos)


@dataclass(frozen=True)
class TeamTransition:
    """One step of a batch.

    Attributes:
        going: bool [E], environments whose episode went on until here; only they count.
        alive: for each group bool [E * A], agents whose episode went on until here.
        before: what was known before the step.
        actions: for each group a batch with all rows.
        after: what the step brought.
    """

    going: BoolArray
    alive: Sequence[BoolArray]
    before: MultiAgentStep
    actions: Sequence[BatchedValue]
    after: MultiAgentStep


class TeamObserver(Protocol):
    """Someone who watches episodes go by, to record them."""

    def begun(self, env: RemoteMultiAgentVectorEnv, step: MultiAgentStep) -> None:
        """All environments have been reset."""

    def stepped(self, transition: TeamTransition) -> None:
        """All environments have been stepped."""


def play(
    env: RemoteMultiAgentVectorEnv,
    line_up: LineUp,
    seeds: Sequence[int],
    observers: Sequence[TeamObserver] = (),
    ticked: Callable[[int], None] = lambda ended: None,
) -> TeamEpisodes:
    """Plays one episode in each environment.

    Environments whose episode is over go on unnoticed until the last is: every step is of the
    whole batch.

    Args:
        env: with autoreset ``NEXT_STEP``.
        line_up: who acts.
        seeds: one for each environment.
        observers: are told of every step.
        ticked: is called after each step, with how many episodes ended in it.
    """
    step = env.reset(seed=list(seeds))
    for policy in line_up.policies:
        policy.begin(env.num_envs)
    for observer in observers:
        observer.begun(env, step)
    tally = _Tally(env, step)
    while tally.going.any():
        pairs = zip(line_up.policies, step.groups, strict=True)
        actions = [policy.act(part) for policy, part in pairs]
        before, step = step, env.step(actions)
        transition = TeamTransition(tally.going, list(tally.alive), before, actions, step)
        for observer in observers:
            observer.stepped(transition)
        ticked(tally.add(step))
    return tally.episodes()


class _Tally:
    """Sums up running episodes."""

    def __init__(self, env: RemoteMultiAgentVectorEnv, step: MultiAgentStep) -> None:
        count = env.num_envs
        self._env = env
        self._sizes = [len(group.agents) for group in env.groups]
        #: As in ``TeamTransition``.
        self.going = np.ones(count, np.bool_)
        self.alive: list[BoolArray] = [part.present.copy() for part in step.groups]
        self._returns = [np.zeros(count * size) for size in self._sizes]
        self._infos: list[dict[str, _Number]] = [{} for _ in self._sizes]
        self._lengths = np.zeros(count, np.int64)
        self._truncated = np.zeros(count, np.bool_)
        self._faulty = np.zeros(count, np.bool_)

    def add(self, step: MultiAgentStep) -> int:
        """Adds what a step brought; how many episodes ended in it."""
        failed = np.zeros(len(self.going), np.bool_)
        failed[list(step.faults)] = True
        self._faulty |= failed & self.going
        counting = self.going & ~failed
        self._lengths += counting
        goes_on = np.zeros(len(self.going), np.bool_)
        for number, (size, part) in enumerate(zip(self._sizes, step.groups, strict=True)):
            here = part.present & counting.repeat(size)
            self._returns[number] += np.where(here, part.reward, 0.0)
            self._add_infos(number, part.infos, here)
            stopped = here & part.truncated & ~part.terminated
            self._truncated |= stopped.reshape(-1, size).any(axis=1)
            ended = part.present & (part.terminated | part.truncated)
            alive = (self.alive[number] | part.present) & ~ended & counting.repeat(size)
            self.alive[number] = alive
            goes_on |= alive.reshape(-1, size).any(axis=1)
        ended_here = int((self.going & ~goes_on).sum())
        self.going = self.going & goes_on
        return ended_here

    def episodes(self) -> TeamEpisodes:
        """What they came to."""
        groups = {}
        for number, group in enumerate(self._env.groups):
            shape = (-1, len(group.agents))
            infos = {
                name: AgentNumbers(found.mean.reshape(shape), found.last.reshape(shape))
                for name, found in self._infos[number].items()
            }
            groups[group.name] = GroupEpisodes(
                group.agents, self._returns[number].reshape(shape), infos
            )
        return TeamEpisodes(groups, self._lengths, self._truncated, self._faulty)

    def _add_infos(self, number: int, infos: RowInfos, here: BoolArray) -> None:
        for name, (values, rows) in infos.items():
            if not is_number(values):
                continue
            kept = self._infos[number].setdefault(name, _Number(len(here)))
            counted = here[rows]
            kept.add(rows[counted], np.asarray(values)[counted])


class _Number:
    """One number of all agents of a group."""

    def __init__(self, rows: int) -> None:
        self._total = np.zeros(rows)
        self._count = np.zeros(rows, np.int64)
        self.last: FloatArray = np.full(rows, np.nan)

    def add(self, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        self._total[rows] += values
        self._count[rows] += 1
        self.last[rows] = values

    @property
    def mean(self) -> FloatArray:
        known = self._count > 0
        return np.where(known, self._total / np.maximum(self._count, 1), np.nan)


def is_number(values: Any) -> bool:
    """Whether an info is one number or flag for each row."""
    return isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf"
