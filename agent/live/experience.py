"""What live simulators go through, kept until the learner asks for it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.live.inference import AgentStep, Decision, End, EpisodeSink, LiveEpisode, Masks
from farsim.v1 import policy_pb2 as pb


@dataclass(frozen=True)
class Lived:
    """One transition, but for the observation after it, which the next one has.

    Attributes:
        decision: what was seen, and done.
        reward: what it was worth.
        time: when, on the episode's clock, which goes on with every event that agents act in.
    """

    decision: Decision
    reward: float
    time: int


@dataclass(frozen=True)
class Seen:
    """An observation that nobody acts on."""

    observation: Any
    action_masks: Masks


@dataclass(frozen=True)
class Chunk:
    """Transitions of one agent that follow one another.

    Attributes:
        episode: names the live episode.
        agent: whose.
        policy: who decides for it.
        piece: chunks of one episode and agent with the same number follow one another without a
            gap; after a gap there is a higher one.
        started: how many transitions of the piece came before; more than 0 only with ``before``.
        before: the transition before the first one, if the learner needs what it left behind.
        lived: the transitions, at least one.
        last: what was seen after the last one.
        last_time: when, on the episode's clock.
        terminated: the agent's part ends here: the world came to an end.
        truncated: it ends here: stopped from outside, or the simulator vanished.
    """

    episode: str
    agent: str
    policy: str
    piece: int
    started: int
    before: Lived | None
    lived: Sequence[Lived]
    last: Decision | Seen
    last_time: int
    terminated: bool = False
    truncated: bool = False


@dataclass(frozen=True)
class Together:
    """Chunks of agents of one episode, at most one of each.

    Attributes:
        chunks: at least one.
        since: on the episode's clock, until where it has been handed out before.
        until: until where it is handed out with this. A transition that began before ``since`` had
            not come to its end then.
    """

    chunks: Sequence[Chunk]
    since: int
    until: int


@dataclass(frozen=True)
class Finished:
    """An episode that a simulator brought to an end, in numbers.

    Attributes:
        name: of the live episode.
        length: steps of the episode.
        seconds: that it took.
        returns: by agent.
        steps: by agent.
        policies: by agent.
        last: what was seen last, by agent, of those who have seen something.
        terminated: whether no agent was stopped from outside.
    """

    name: str
    length: int
    seconds: float
    returns: dict[str, float]
    steps: dict[str, int]
    policies: dict[str, str]
    last: dict[str, Decision | Seen]
    terminated: bool


@dataclass
class Harvest:
    """What the learner gets at one time.

    Attributes:
        chunks: by episode.
        steps: environment steps in them.
        finished: episodes that simulators brought to an end.
        over: names of all episodes that are over, in whatever way.
        staleness: of the transitions, in versions, by how many there are of each.
        counts: what else happened since the last time; see ``Experience``.
    """

    chunks: list[Together] = field(default_factory=list)
    steps: int = 0
    finished: list[Finished] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    staleness: Counter[int] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)


class _Part:
    """One agent's part in an episode."""

    def __init__(self, agent: str, policy: str) -> None:
        self.agent, self.policy = agent, policy
        self.pending: Decision | None = None
        self.pending_time = 0
        self.lived: list[Lived] = []
        self.before: Lived | None = None
        self.piece, self.started = 0, 0
        self.last: tuple[Decision | Seen, int] | None = None
        self.terminated = self.truncated = False
        self.total, self.steps = 0.0, 0

    def gap(self, skipped: Lived) -> None:
        """``skipped`` is not for the learner, and what comes next begins anew."""
        self.lived, self.piece = [], self.piece + 1
        answer = skipped.decision.answer
        has_state = answer is not None and answer.state is not None
        self.started, self.before = (1, skipped) if has_state else (0, None)

    def take(self, episode: str) -> Chunk | None:
        """What has not been handed out; None if there is nothing."""
        last = self.last
        if last is None and self.pending is not None:
            last = self.pending, self.pending_time
        if last is None or not self.lived:
            return None
        chunk = Chunk(
            episode,
            self.agent,
            self.policy,
            self.piece,
            self.started,
            self.before,
            self.lived,
            *last,
            self.terminated,
            self.truncated,
        )
        self.started, self.before = self.started + len(self.lived), self.lived[-1]
        self.lived = []
        return chunk


class _Running:
    """One episode."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = time.perf_counter()
        self.parts: dict[str, _Part] = {}
        #: Of the last event that agents acted in or ended with; -1 before the first.
        self.time = -1
        #: Until where, on that clock, it has been handed out.
        self.counted = 0

    @property
    def steps(self) -> int:
        return max(self.time, 0)

    def finished(self) -> Finished:
        parts = self.parts.values()
        return Finished(
            self.name,
            self.steps,
            time.perf_counter() - self.began,
            {part.agent: part.total for part in parts},
            {part.agent: part.steps for part in parts},
            {part.agent: part.policy for part in parts},
            {part.agent: part.last[0] for part in parts if part.last is not None},
            all(part.terminated for part in parts),
        )


class Experience(EpisodeSink):
    """Takes in what sessions that COLLECT go through, and hands it out in pieces.

    A transition is handed out once it is complete: seen, done, and what came of it. A simulator
    that vanishes leaves its last action without consequence, so its episode ends with the
    observation before that.

    Counts, in ``Harvest.counts``: ``stale`` and ``off_policy`` transitions that were dropped,
    ``overflow`` those that nobody fetched in time, ``aborted`` and ``lost`` episodes.

    Args:
        on_policy: whether only actions that the policy chose are of use.
        max_staleness: how many versions old a transition may be when it is handed out; None for
            any number.
        capacity: transitions that are kept, at most; the newest ones are dropped beyond that.
    """

    def __init__(self, on_policy: bool, max_staleness: int | None, capacity: int = 100_000) -> None:
        self._on_policy, self._max_staleness = on_policy, max_staleness
        self._capacity = capacity
        self._changed = threading.Condition()
        self._running: dict[LiveEpisode, _Running] = {}
        self._ended: list[_Running] = []
        self._cut: list[Chunk] = []
        self._ready = self._kept = 0
        self._enough = 0
        self._harvest = Harvest()

    # -- the service tells ----------------------------------------------------------------

    def started(self, episode: LiveEpisode) -> None:
        if episode.mode == pb.LIVE_MODE_COLLECT:
            with self._changed:
                self._running[episode] = _Running(episode.name)

    def stepped(self, episode: LiveEpisode, steps: Sequence[AgentStep]) -> None:
        with self._changed:
            running = self._running.get(episode)
            if running is None:
                return
            running.time += 1
            kept = sum([self._step(running, step) for step in steps])
            self._kept += kept
            self._ready += kept > 0
            if self._ready >= self._enough:
                self._changed.notify_all()

    def acted(self, episode: LiveEpisode, decisions: Sequence[Decision]) -> None:
        with self._changed:
            running = self._running.get(episode)
            if running is None:
                return
            for decision in decisions:
                part = running.parts[decision.agent]
                part.pending, part.pending_time = decision, running.time

    def ended(self, episode: LiveEpisode, end: End) -> None:
        with self._changed:
            running = self._running.pop(episode, None)
            if running is None:
                return
            self._harvest.over.append(running.name)
            if end is End.ABORTED:
                self._harvest.counts["aborted"] += 1
                self._kept -= sum(len(part.lived) for part in running.parts.values())
                return
            if end is End.ENDED:
                self._harvest.finished.append(running.finished())
            else:
                self._harvest.counts["lost"] += 1
            self._ended.append(running)
            self._changed.notify_all()

    def called(self, decisions: Sequence[Decision]) -> None:
        """Unary calls are of no episode, and for no learner."""

    # -- the learner asks -----------------------------------------------------------------

    @property
    def episodes(self) -> int:
        """How many run."""
        with self._changed:
            return len(self._running)

    def wait(self, steps: int | None, episodes: int | None, seconds: float) -> bool:
        """Waits until there are so many steps or ended episodes; False if there are not in time."""
        with self._changed:
            self._enough = 0 if steps is None else steps
            return self._changed.wait_for(lambda: self._has(steps, episodes), seconds)

    def _has(self, steps: int | None, episodes: int | None) -> bool:
        if episodes is not None:
            return len(self._harvest.finished) >= episodes
        return self._ready >= (steps or 0)

    def harvest(self, version: int) -> Harvest:
        """Everything that is complete, with policies being at ``version`` now."""
        with self._changed:
            found, self._harvest = self._harvest, Harvest()
            cut, self._cut = self._cut, []
            running_chunks = self._take(version, found)
            self._ended = []
            self._ready = self._kept = 0
        # What was cut is from before what goes on.
        for chunk in cut:
            if any(self._is_old(lived, version) for lived in chunk.lived):
                found.counts["stale"] += len(chunk.lived)
            else:
                since = chunk.lived[0].time
                found.chunks.append(Together((chunk,), since, chunk.last_time))
        found.chunks += running_chunks
        for together in found.chunks:
            lived = [lived for chunk in together.chunks for lived in chunk.lived]
            found.steps += len({one.time for one in lived if one.time >= together.since})
            answers = [one.decision.answer for one in lived]
            found.staleness.update(
                version - answer.version for answer in answers if answer is not None
            )
        return found

    # -- within ---------------------------------------------------------------------------

    def _take(self, version: int, found: Harvest) -> list[Together]:
        taken = []
        for running in [*self._ended, *self._running.values()]:
            self._drop_stale(running, version, found)
            parts = running.parts.values()
            chunks = [chunk for part in parts if (chunk := part.take(running.name)) is not None]
            if chunks:
                taken.append(Together(chunks, running.counted, running.time))
                running.counted = running.time
        return taken

    def _step(self, running: _Running, step: AgentStep) -> int:
        """Takes in how an agent has fared; how many transitions there are more for the learner."""
        part = running.parts.setdefault(step.agent, _Part(step.agent, step.policy))
        part.total += step.reward
        part.pending = None
        has_ended = step.terminated or step.truncated
        previous = step.previous
        kept = 0
        if previous is not None:
            part.steps += 1
            lived = Lived(previous, step.reward, part.pending_time)
            is_known = step.observation is not None or step.terminated
            if is_known:
                kept = self._keep(running, part, lived)
        if has_ended:
            part.terminated, part.truncated = step.terminated, step.truncated
            if step.observation is not None:
                part.last = Seen(step.observation, step.action_masks), running.time
            elif previous is not None:
                # Nothing is learned from what follows the end of the world; else see `is_known`.
                at = running.time if step.terminated else part.pending_time
                part.last = previous, at
        return kept

    def _keep(self, running: _Running, part: _Part, lived: Lived) -> int:
        reason = ""
        if self._on_policy and not lived.decision.is_on_policy:
            reason = "off_policy"
        elif self._kept >= self._capacity:
            reason = "overflow"
        if not reason:
            part.lived.append(lived)
            return 1
        self._harvest.counts[reason] += 1
        part.last = lived.decision, lived.time
        chunk = part.take(running.name)
        part.last = None
        if chunk is not None:
            self._cut.append(chunk)
        part.gap(lived)
        return 0

    def _drop_stale(self, running: _Running, version: int, found: Harvest) -> None:
        if self._max_staleness is None:
            return
        for part in running.parts.values():
            fresh = 0
            while fresh < len(part.lived) and self._is_old(part.lived[fresh], version):
                fresh += 1
            if fresh:
                found.counts["stale"] += fresh
                rest = part.lived[fresh:]
                part.gap(part.lived[fresh - 1])
                part.lived = rest

    def _is_old(self, lived: Lived, version: int) -> bool:
        answer = lived.decision.answer
        if self._max_staleness is None or answer is None:
            return False
        return version - answer.version > self._max_staleness
