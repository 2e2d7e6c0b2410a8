"""From arrays over all environments to RLlib's episodes, when these end or a sample is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import _REWARDS_BOX_SPACE, SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

from agent.sampling.columns import BoolArray, Column, IntArray, chosen, joined


@dataclass(frozen=True)
class Now:
    """What the agents of one group see now.

    Attributes:
        observation: a nest of arrays [rows, ...].
        acting: bool [rows]: is to act on it.
    """

    observation: Any
    acting: BoolArray


@dataclass(frozen=True)
class _End:
    """The end of an agent's part in an episode: when, what it saw last, and why."""

    time: int
    observation: Any
    terminated: bool
    info: Mapping[str, Any]


@dataclass
class _Transitions:
    """Consecutive transitions of one agent; nests of arrays [transitions, ...].

    Attributes:
        observation: that it acted on.
        times: when it did, on the recorder's clock; -1 for an action before the last cut.
    """

    observation: Any
    action: Any
    reward: NDArray[np.float64]
    extras: dict[str, Any]
    times: list[int]

    def split(self, at: int) -> tuple[_Transitions, _Transitions]:
        first, second = slice(None, at), slice(at, None)
        return self._part(first), self._part(second)

    def _part(self, which: slice) -> _Transitions:
        return _Transitions(
            chosen(self.observation, which),
            chosen(self.action, which),
            self.reward[which],
            {name: chosen(values, which) for name, values in self.extras.items()},
            self.times[which],
        )

    def since(self, time: int) -> _Transitions:
        """Those at ``time`` and later."""
        return self._part(slice(len(self.times) - sum(t >= time for t in self.times), None))

    def followed_by(self, other: _Transitions) -> _Transitions:
        return _Transitions(
            joined(self.observation, other.observation),
            joined(self.action, other.action),
            np.concatenate([self.reward, other.reward]),
            {name: joined(values, other.extras[name]) for name, values in self.extras.items()},
            self.times + other.times,
        )


@dataclass
class _Record:
    """What one group has gone through; a row is an agent of an environment."""

    agents: Sequence[str]
    rows: int
    observation: Column = field(init=False)
    action: Column = field(init=False)
    reward: Column = field(init=False)
    acted: Column = field(init=False)
    #: By policy and name, as the policies of one group may say different things.
    extras: dict[tuple[str, str], Column] = field(default_factory=dict)
    #: Transitions of the running episode that earlier cuts have handed out, by row.
    handed_out: IntArray = field(init=False)
    #: The last action before a cut, if its consequence was not known then.
    open: dict[int, _Transitions] = field(default_factory=dict)
    #: The last ones of the running episode that earlier cuts have handed out, by row, for the next
    #: chunk to look back to; their times are negative, counted from the cut.
    past: dict[int, _Transitions] = field(default_factory=dict)
    ended: dict[int, _End] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.observation, self.action = Column(self.rows), Column(self.rows)
        self.reward, self.acted = Column(self.rows), Column(self.rows)
        self.handed_out = np.zeros(self.rows, np.int64)


class Recorder:
    """Records steps of all environments, and makes chunks of RLlib's ``MultiAgentEpisode`` of them.

    A transition of an agent goes from one observation that it acts on to the next such one, or to
    its last; rewards in between add up. Rewards before an agent's first action are nobody's
    doing, and in no transition.

    Args:
        agents: the agents' names, by group.
        num_envs: how many environments.
        spaces: observation and action space by agent, as the policies see them.
        horizon: how many steps of the chunk before a chunk looks back to, as RLlib's
            ``episode_lookback_horizon``.
    """

    def __init__(
        self,
        agents: Sequence[Sequence[str]],
        num_envs: int,
        spaces: Mapping[str, tuple[Space[Any], Space[Any]]],
        horizon: int = 0,
    ) -> None:
        self._records = [_Record(names, num_envs * len(names)) for names in agents]
        self._spaces = spaces
        self._horizon = horizon
        #: Steps since the last cut.
        self.time = 0
        #: Since when, on that clock, what is recorded of an environment is not handed out.
        self._since = np.zeros(num_envs, np.int64)
        #: Steps of the running episodes before that.
        self._before = np.zeros(num_envs, np.int64)

    # -- recording ------------------------------------------------------------------------

    def acted(
        self,
        group: int,
        policy: str,
        rows: IntArray | None,
        observation: Any,
        action: Any,
        extras: Mapping[str, Any],
    ) -> None:
        """Notes what agents do in the present step.

        Args:
            group: its number.
            policy: that has decided.
            rows: of the group, increasing; None for all.
            observation: a nest of arrays [rows, ...], as are the next two.
            action: as the network gave it.
            extras: what else it said, by column name.
        """
        record = self._records[group]
        record.observation.put(self.time, observation, rows)
        record.action.put(self.time, action, rows)
        for name, values in extras.items():
            column = record.extras.get((policy, name))
            if column is None:
                column = record.extras[policy, name] = Column(record.rows)
            column.put(self.time, values, rows)

    def stepped(self, acted: Sequence[BoolArray], rewards: Sequence[NDArray[np.float64]]) -> None:
        """Ends the present step: who acted in it, and what it was worth, for every group."""
        for record, who, reward in zip(self._records, acted, rewards, strict=True):
            record.acted.put(self.time, who)
            record.reward.put(self.time, reward)
        self.time += 1

    def ended(
        self,
        group: int,
        rows: IntArray,
        observation: Any,
        terminated: BoolArray,
        infos: Mapping[int, Mapping[str, Any]],
    ) -> None:
        """Agents' parts in their episodes have ended with the step before.

        Args:
            group: its number.
            rows: of the group.
            observation: what they saw last, a nest of arrays [rows, ...].
            terminated: bool [rows]: because the world came to an end, else truncated.
            infos: their last ones, by row.
        """
        record = self._records[group]
        for place, row in enumerate(rows.tolist()):
            last = chosen(observation, slice(place, place + 1))
            end = _End(self.time, last, bool(terminated[place]), infos.get(row, {}))
            record.ended[row] = end

    def begin(self, env: int) -> None:
        """An environment's next episode begins with the next step."""
        self._since[env] = self.time
        self._before[env] = 0
        for record in self._records:
            agents = len(record.agents)
            record.handed_out[env * agents : (env + 1) * agents] = 0
            for row in range(env * agents, (env + 1) * agents):
                record.open.pop(row, None)
                record.past.pop(row, None)

    # -- handing out ----------------------------------------------------------------------

    def steps(self, env: int) -> int:
        """Of an environment's running episode, handed out or not."""
        return int(self._before[env] + self.time - self._since[env])

    def hand_out(
        self, env: int, episode: MultiAgentEpisode, now: Sequence[Now], until: int | None = None
    ) -> bool:
        """Puts what is not handed out yet of an environment's episode into ``episode``.

        Args:
            env: the environment.
            episode: of which only the identity and the mapping to policies are used.
            now: what the agents of each group see that have not ended.
            until: the step before which it stops, on the recorder's clock; None for now.

        Returns:
            Whether there is anything in it.
        """
        since, until = int(self._since[env]), self.time if until is None else until
        episode.env_t_started = int(self._before[env])
        episode.env_t = episode.env_t_started + until - since
        for record, seen in zip(self._records, now, strict=True):
            for place, agent in enumerate(record.agents):
                row = env * len(record.agents) + place
                self._hand_out_agent(record, row, agent, (since, until), seen, episode)
        self._before[env] = episode.env_t
        self._since[env] = until
        return bool(episode.agent_episodes)

    def cut(self) -> None:
        """Starts the clock anew, when all environments have been handed out up to now."""
        self.time = 0
        self._since[:] = 0

    def _hand_out_agent(
        self,
        record: _Record,
        row: int,
        agent: str,
        span: tuple[int, int],
        now: Now,
        episode: MultiAgentEpisode,
    ) -> None:
        policy = policy_of(episode, agent)
        end = record.ended.pop(row, None)
        past = record.past.pop(row, None)
        done = self._transitions(record, row, policy, span)
        if done is None:
            return
        if end is not None:
            last, at, info = end.observation, end.time, end.info
        elif now.acting[row]:
            last, at, info = chosen(now.observation, slice(row, row + 1)), span[1], {}
        else:
            done, record.open[row] = done.split(len(done.times) - 1)
            last, at, info = record.open[row].observation, record.open[row].times[0], {}
            record.open[row].times = [-1]
            if not done.times:
                return
        times, back = [*done.times, at], 0
        started = int(record.handed_out[row])
        record.handed_out[row] += len(done.times)
        if past is not None and past.extras.keys() == done.extras.keys():
            done, back = past.followed_by(done), len(past.times)
        infos: list[Mapping[str, Any]] = [{}] * len(done.times) + [dict(info)]
        part = SingleAgentEpisode(
            id_=f"{episode.id_}_{agent}",
            observations=InfiniteLookbackBuffer(joined(done.observation, last), back),
            actions=InfiniteLookbackBuffer(done.action, back),
            rewards=InfiniteLookbackBuffer(done.reward, back, _REWARDS_BOX_SPACE),
            infos=InfiniteLookbackBuffer(infos, back),
            extra_model_outputs={
                name: InfiniteLookbackBuffer(values, back) for name, values in done.extras.items()
            },
            terminated=end is not None and end.terminated,
            truncated=end is not None and not end.terminated,
            t_started=started,
            len_lookback_buffer=0,
            agent_id=agent,
            module_id=policy,
            multi_agent_episode_id=episode.id_,  # type: ignore[arg-type]  # It says int, and is text.
        )
        part.observation_space, part.action_space = self._spaces[agent]
        episode.agent_episodes[agent] = part
        episode.agent_t_started[agent] = started
        before = min(self._horizon, episode.env_t_started)
        tags = _clock(done.times[:back], (-before, -1), started - back) if before else []
        episode.env_t_to_agent_t[agent] = InfiniteLookbackBuffer(
            tags + _clock(times, span, started), before
        )
        if self._horizon and end is None:
            recent = done.since(span[1] - self._horizon)
            recent.times = [time - span[1] for time in recent.times]
            record.past[row] = recent

    def _transitions(
        self, record: _Record, row: int, policy: str, span: tuple[int, int]
    ) -> _Transitions | None:
        """What an agent did in a span of time, and before that without consequence."""
        since, until = span
        earlier = record.open.pop(row, None)
        times = np.zeros(0, np.int64)
        rewards = np.zeros(0)
        if until > since:
            every = np.arange(since, until)
            times = every[record.acted.take(every, row)]
            rewards = record.reward.take(every, row)
        if earlier is not None:
            before_first = times[0] - since if len(times) else until - since
            earlier.reward = earlier.reward + rewards[:before_first].sum()
        if not len(times):
            return earlier
        done = _Transitions(
            record.observation.take(times, row),
            record.action.take(times, row),
            np.add.reduceat(rewards, times - since),
            {
                name: column.take(times, row)
                for (owner, name), column in record.extras.items()
                if owner == policy
            },
            times.tolist(),
        )
        return done if earlier is None else earlier.followed_by(done)


def policy_of(episode: MultiAgentEpisode, agent: str) -> str:
    """Who decides for an agent in an episode."""
    policy: str = episode.module_for(agent)  # type: ignore[assignment]
    return policy


def _clock(times: Sequence[int], span: tuple[int, int], started: int) -> list[Any]:
    """RLlib's mapping from the environment's to the agent's time steps, for a chunk."""
    since, until = span
    steps: list[Any] = [MultiAgentEpisode.SKIP_ENV_TS_TAG] * (until - since + 1)
    for number, time in enumerate(times):
        if time >= since:
            steps[time - since] = started + number
    return steps
