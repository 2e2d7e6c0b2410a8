"""One live session: its events, each carried out once, and its episodes."""

from __future__ import annotations

import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from agent.live.batching import Outcome
from agent.live.episodes import Episode, Reading
from agent.live.host import Host
from agent.live.inference import Answer, End, LiveEpisode
from agent.live.numbers import Numbers
from agent.live.policies import SINGLE_AGENT, Policy
from agent.live.streams import Entry, Stream, fingerprint
from farsim.errors import (
    Draining,
    EpisodeOver,
    FarsimError,
    InvalidArgument,
    LimitExceeded,
    ProtocolError,
    SequenceError,
    SessionLost,
    Unsupported,
)
from farsim.v1 import policy_pb2 as pb

logger = logging.getLogger(__name__)


class Session:
    """A leased set of episodes, which outlives the streams that carry it.

    Everything happens in the server's own thread; only the policies' answers take time.

    Args:
        host: what it shares with others.
        hello: what the client asked for.
        forget: called once it is closed.

    Raises:
        FarsimError: the request can not be granted.
    """

    def __init__(self, host: Host, hello: pb.Hello, forget: Callable[[Session], None]) -> None:
        mode = hello.mode or pb.LIVE_MODE_SERVE
        if mode not in host.modes:
            offered = ", ".join(_mode_name(known) for known in host.modes)
            hint = "; 'farsim train --live' collects" if mode == pb.LIVE_MODE_COLLECT else ""
            raise Unsupported(
                f"this server offers the modes {offered}, not {_mode_name(mode)}{hint}", "mode"
            )
        if not hello.lease_seconds >= 0:
            raise InvalidArgument("lease_seconds must not be negative", "lease_seconds")
        agents = [agent for group in hello.groups for agent in group.agents]
        if len(set(agents)) < len(agents):
            raise InvalidArgument("an agent is named in two groups", "groups")
        policies: dict[tuple[str, str], Policy] = {}
        for group in hello.groups:
            for agent in group.agents:
                policy = host.policies.of_agent(agent or SINGLE_AGENT)
                if policies.setdefault((policy.name, group.name), policy) is policy:
                    policy.check_group(group)
        host.policies.check_version(hello.policy_version, policies.values() or host.policies)

        self.token = secrets.token_urlsafe(24)
        #: For logs and records, where the token must not be.
        self.name = secrets.token_hex(6)
        self.client = hello.client[:200]
        self.mode = mode
        self.lease_seconds = min(
            hello.lease_seconds or host.limits.lease_seconds, host.limits.lease_seconds
        )
        self.is_closed = False
        #: The one that carries it; None between two.
        self.stream: Stream | None = None
        #: When the last stream broke, ``time.monotonic``; None while one carries it.
        self.detached_at: float | None = None
        self._host, self._forget_session = host, forget
        self._version = hello.policy_version
        greedy = {pb.SAMPLING_UNSPECIFIED: host.greedy, pb.SAMPLING_GREEDY: True}
        self._greedy = mode != pb.LIVE_MODE_COLLECT and greedy.get(hello.sampling, False)
        self._last_event = time.monotonic()
        self._next = 1
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._pending = 0
        self._goodbye: Entry | None = None
        self._episodes: dict[int, Episode] = {}
        self._used = Numbers()

    @property
    def last_sequence(self) -> int:
        """The highest number carried out or being carried out."""
        return self._next - 1

    @property
    def episodes(self) -> int:
        """How many run."""
        return len(self._episodes)

    def has_expired(self, now: float) -> bool:
        """Whether its lease has run out by ``now``, on the clock of ``time.monotonic``."""
        return self.detached_at is not None and now - self.detached_at > self.lease_seconds

    def is_idle(self, now: float) -> bool:
        """Whether it has been silent for too long, on a stream that stands."""
        silent = now - self._last_event > self._host.limits.idle_seconds
        return silent and self.detached_at is None and not self._pending

    def take(self, stream: Stream, raw: bytes) -> None:
        """Receives one serialised event; its reply goes to ``stream`` when it is ready.

        Raises:
            DecodeError: the bytes are no LiveEvent.
        """
        if self.stream is not stream:
            return
        event = pb.LiveEvent.FromString(raw)
        self._last_event = time.monotonic()
        if event.sequence != self._next:
            stream.expect(self._repeated(event.sequence, raw))
            return
        self._next += 1
        entry = Entry(event.sequence, raw)
        self._entries[event.sequence] = entry
        self._pending += 1
        stream.expect(entry)
        self._forget()
        try:
            self._carry_out(entry, event)
        except Exception as error:
            self._refuse(entry, error)

    def resume(self, stream: Stream) -> None:
        """``stream`` carries it from now on."""
        self.stream, self.detached_at = stream, None
        self._last_event = time.monotonic()

    def adopt(self, token: str) -> None:
        """Has been opened elsewhere, with this token, and waits for its client to resume it."""
        self.token = token
        self._next = 2
        self.detached_at = time.monotonic()

    def close(self, end: End) -> None:
        """Ends all episodes. Later calls do nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        for number in list(self._episodes):
            self._end_episode(number, end)
        self._forget_session(self)

    # -- events ---------------------------------------------------------------------------

    def _carry_out(self, entry: Entry, event: pb.LiveEvent) -> None:
        if self.is_closed or self._goodbye is not None:
            raise ProtocolError("this session is closed; open another one")
        if self._host.is_draining:
            raise Draining("the server is about to stop; open a session on another one")
        kind = event.WhichOneof("event")
        if kind == "observe":
            self._in_turn(entry, event.observe, self._observe)
        elif kind == "end":
            self._in_turn(entry, event.end, self._end)
        elif kind == "start":
            self._start(event.start.episode)
            self._settle(entry, pb.LiveReply(done=pb.Done()))
        elif kind == "keep_alive":
            self._settle(entry, pb.LiveReply(done=pb.Done()))
        elif kind == "goodbye":
            self._goodbye = entry
            self._part_if_due()
        elif kind == "hello":
            if entry.sequence != 1:
                raise ProtocolError("this session is open already; open another on a new stream")
            self._settle(entry, pb.LiveReply(welcome=self._welcome()))
        elif kind is None:
            raise ProtocolError("an event without content; set one of start, observe, end, ...")
        else:
            raise ProtocolError(f"'{kind}' is not for this point of a session")

    def _welcome(self) -> pb.Welcome:
        limits = self._host.limits
        return pb.Welcome(
            session_token=self.token,
            mode=self.mode,
            lease_seconds=self.lease_seconds,
            idle_seconds=limits.idle_seconds,
            max_in_flight=limits.max_in_flight,
            max_episodes=limits.max_session_episodes,
            policy_version=self._version or self._host.policies.last_version,
        )

    def _start(self, number: int) -> None:
        host = self._host
        if number in self._used:
            raise InvalidArgument(
                f"episode {number} is not the first of that number in this session", "episode"
            )
        if len(self._episodes) >= host.limits.max_session_episodes:
            raise LimitExceeded(
                f"a session runs at most {host.limits.max_session_episodes} episodes at a time; "
                "end one first",
                "episode",
            )
        if host.episodes >= host.limits.max_episodes:
            raise LimitExceeded(
                f"all {host.limits.max_episodes} episodes of this server are taken; use another "
                "server",
                "episode",
            )
        self._used.add(number)
        live = LiveEpisode(self.name, number, self.mode, self.client)
        self._episodes[number] = Episode(
            live, host.policies, self._greedy, host.limits.max_agents, host.sinks
        )
        host.episodes += 1
        host.metrics.episodes(1)

    def _in_turn(
        self,
        entry: Entry,
        event: pb.Observe | pb.EpisodeEnd,
        carry_out: Callable[[Entry, Any, Episode], None],
    ) -> None:
        """Has an event carried out once the earlier ones of its episode have been."""
        number = event.episode
        episode = self._episodes.get(number)
        if episode is None:
            if number in self._used:
                raise EpisodeOver(f"episode {number} is over; start another one", "episode")
            raise ProtocolError(f"episode {number} has not started; send 'start' first", "episode")
        names = _in_doubt(event.agents, episode)
        if names:
            raise ProtocolError(
                f"agent '{names[0]}' goes on before it has got the action for its last "
                "observation; wait for it, or say what it did as 'action_taken'",
                "agents",
            )
        asking = [sent.agent or SINGLE_AGENT for sent in event.agents if _asks(sent)]
        episode.awaiting.update(asking)

        def turn() -> None:
            try:
                if episode.is_over:
                    raise EpisodeOver(f"episode {number} is over; start another one", "episode")
                carry_out(entry, event, episode)
            except Exception as error:
                episode.awaiting.subtract(asking)
                self._refuse(entry, error)

        if not episode.is_waiting and not episode.deferred:
            turn()
        else:
            episode.deferred.append(turn)

    def _end(self, entry: Entry, event: pb.EpisodeEnd, episode: Episode) -> None:
        episode.commit(episode.read(event.agents, at_end=True), {})
        self._end_episode(event.episode, End.ABORTED if event.aborted else End.ENDED)
        self._settle(entry, pb.LiveReply(done=pb.Done()))

    def _observe(self, entry: Entry, event: pb.Observe, episode: Episode) -> None:
        readings = episode.read(event.agents)
        questions: dict[str, list[Reading]] = {}
        for reading in readings:
            if episode.query(reading) is not None:
                questions.setdefault(reading.part.policy.name, []).append(reading)
        is_answered = any(reading.is_answered for reading in readings)
        if not questions:
            episode.commit(readings, {})
        if not is_answered:
            # Nobody waits for what the policy would have done.
            self._settle(entry, pb.LiveReply(actions=pb.Actions(episode=event.episode)))
        if not questions:
            return
        episode.in_flight = readings
        answers: dict[str, Answer] = {}
        errors: list[FarsimError] = []
        left = set(questions)

        def done(policy: str, outcome: Outcome) -> None:
            left.discard(policy)
            if isinstance(outcome, FarsimError):
                errors.append(outcome)
            else:
                asked = questions[policy]
                answers.update(
                    (reading.part.agent, answer)
                    for reading, answer in zip(asked, outcome, strict=True)
                )
            if not left:
                self._answered(entry, episode, readings, answers, errors, is_answered)

        for policy, asked in questions.items():
            queries = [query for reading in asked if (query := episode.query(reading))]
            self._host.batcher.submit(policy, self._version, queries, partial(done, policy))

    def _answered(
        self,
        entry: Entry,
        episode: Episode,
        readings: list[Reading],
        answers: Mapping[str, Answer],
        errors: list[FarsimError],
        is_answered: bool,
    ) -> None:
        for reading in readings:
            if reading.is_answered:
                episode.awaiting[reading.part.agent] -= 1
        episode.in_flight = None
        if episode.is_over:
            if is_answered:
                self._refuse(entry, SessionLost("the episode ended before the action was there"))
        elif errors and is_answered:
            self._refuse(entry, errors[0])
        else:
            seconds = time.perf_counter() - entry.arrived
            if errors:
                logger.warning("no shadow of episode %s: %s", episode.live.name, errors[0].message)
            try:
                reply = _actions(episode, readings, answers) if is_answered else None
                episode.commit(readings, answers, seconds)
                if reply is not None:
                    self._settle(entry, reply)
                    self._count(readings, seconds)
            except Exception as error:
                # The policy's answer is none of its action space.
                self._refuse(entry, error)
        while episode.deferred and not episode.is_waiting:
            episode.deferred.popleft()()

    def _count(self, readings: Sequence[Reading], seconds: float) -> None:
        for reading in readings:
            if reading.is_answered:
                self._host.metrics.answered(reading.part.policy.name, (seconds,))

    def _end_episode(self, number: int, end: End) -> None:
        episode = self._episodes.pop(number)
        self._host.episodes -= 1
        self._host.metrics.episodes(-1)
        episode.close(end)

    # -- replies --------------------------------------------------------------------------

    def _settle(self, entry: Entry, reply: pb.LiveReply) -> None:
        reply.sequence = entry.sequence
        data = reply.SerializeToString()
        bound = self._host.limits.max_message_bytes
        if len(data) > bound:
            error = LimitExceeded(
                f"the reply has {len(data)} bytes and a message at most {bound}: name fewer agents"
            )
            message = pb.LiveReply(sequence=entry.sequence, error=self._host.wire_error(error))
            data = message.SerializeToString()
        self._pending -= 1
        entry.settle(data)
        self._part_if_due()

    def _refuse(self, entry: Entry, error: Exception) -> None:
        self._settle(entry, pb.LiveReply(error=self._host.wire_error(error)))

    def _part_if_due(self) -> None:
        """Says farewell once everything before has been answered."""
        entry = self._goodbye
        if entry is not None and entry.reply is None and self._pending == 1:
            self.close(End.GOODBYE)
            self._pending -= 1
            reply = pb.LiveReply(sequence=entry.sequence, farewell=pb.Farewell())
            entry.settle(reply.SerializeToString())
            if self.stream is not None:
                self.stream.end_when_sent()

    def _repeated(self, sequence: int, raw: bytes) -> Entry:
        known = self._entries.get(sequence)
        if known is not None and known.fingerprint == fingerprint(raw):
            return known
        if known is not None:
            text = f"event {sequence} was a different one; use number {self._next} for a new one"
        elif sequence < self._next:
            text = (
                f"event {sequence} is long answered and its reply forgotten; only the last "
                f"{self._host.limits.max_in_flight} are kept"
            )
        else:
            text = f"event {sequence} came before {self._next}; numbers go up by one"
        error = self._host.wire_error(SequenceError(text, "sequence"))
        entry = Entry(sequence, raw)
        entry.settle(pb.LiveReply(sequence=sequence, error=error).SerializeToString())
        return entry

    def _forget(self) -> None:
        while len(self._entries) > self._host.limits.max_in_flight:
            oldest = next(iter(self._entries.values()))
            if oldest.reply is None:
                return
            self._entries.popitem(last=False)


def _asks(sent: pb.AgentObservation) -> bool:
    """Whether the reply is to hold an action for this agent."""
    goes_on = not sent.terminated and not sent.truncated
    return goes_on and sent.HasField("observation") and not sent.HasField("logged_action")


def _in_doubt(agents: Sequence[pb.AgentObservation], episode: Episode) -> list[str]:
    """Agents that have moved on although nobody can know what they did before."""
    if not episode.deferred and not episode.is_waiting:
        return []
    return [
        sent.agent or SINGLE_AGENT
        for sent in agents
        if episode.awaiting[sent.agent or SINGLE_AGENT] > 0
        and (sent.HasField("observation") or sent.terminated or sent.truncated)
        and not sent.HasField("action_taken")
    ]


def _actions(
    episode: Episode, readings: Sequence[Reading], answers: Mapping[str, Answer]
) -> pb.LiveReply:
    actions = pb.Actions(episode=episode.live.number)
    for reading in readings:
        if reading.is_answered:
            policy, answer = reading.part.policy, answers[reading.part.agent]
            actions.agents.add(
                agent=reading.sent_as,
                action=policy.write_actions([answer.action]),
                policy=policy.name,
                policy_version=answer.version,
            )
    return pb.LiveReply(actions=actions)


def _mode_name(mode: int) -> str:
    """As people write it: "collect"; the number of one that is none of this version."""
    if mode not in pb.LiveMode.values():
        return str(mode)
    return pb.LiveMode.Name(mode).removeprefix("LIVE_MODE_").lower()
