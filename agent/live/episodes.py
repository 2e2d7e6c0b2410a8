"""One live episode: what each agent saw, was told to do, and has earned since."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.live.inference import (
    AgentStep,
    Answer,
    Decision,
    End,
    EpisodeSink,
    LiveEpisode,
    Masks,
    Query,
)
from agent.live.policies import SINGLE_AGENT, Policies, Policy
from farsim.errors import EpisodeOver, InvalidArgument, LimitExceeded, ProtocolError
from farsim.v1 import policy_pb2 as pb

logger = logging.getLogger(__name__)


class Part:
    """One agent's part in an episode. Its identity is that of ``Query.episode``."""

    def __init__(self, agent: str, policy: Policy) -> None:
        self.agent, self.policy = agent, policy
        #: On the last observation; None before the first.
        self.decision: Decision | None = None
        #: Earned since the last observation.
        self.reward = 0.0
        #: The policy's memory.
        self.state: Any = None
        self.is_over = False


@dataclass
class Reading:
    """What an event says of one agent, read and found valid, but not carried out yet."""

    part: Part
    sent_as: str
    has_observation: bool
    observation: Any
    masks: Masks
    reward: float
    terminated: bool
    truncated: bool
    logged: Any
    is_logged: bool
    taken: Any
    is_overridden: bool

    @property
    def acts(self) -> bool:
        """Whether an action follows the observation, the policy's or a logged one."""
        return self.has_observation and not self.terminated and not self.truncated

    @property
    def is_answered(self) -> bool:
        """Whether the reply to the event holds an action for this agent."""
        return self.acts and not self.is_logged


class Episode:
    """The state of one episode; changed only by ``commit`` and ``close``.

    Args:
        live: who it is to sinks.
        policies: who acts for whom.
        greedy: how actions are chosen.
        max_agents: that may have a part.
        sinks: whom to tell.
    """

    def __init__(
        self,
        live: LiveEpisode,
        policies: Policies,
        greedy: bool,
        max_agents: int,
        sinks: Sequence[EpisodeSink],
    ) -> None:
        self.live = live
        self.is_over = False
        #: The readings whose answers are being waited for; None if there are none.
        self.in_flight: list[Reading] | None = None
        #: What is to be done, in order, once those answers are here.
        self.deferred: deque[Callable[[], None]] = deque()
        #: How many observations of each agent have got no answer yet, deferred ones included.
        self.awaiting: Counter[str] = Counter()
        self._policies, self._greedy, self._max_agents = policies, greedy, max_agents
        self._sinks = sinks
        self._parts: dict[str, Part] = {}
        self._tell(lambda sink: sink.started(live))

    @property
    def is_waiting(self) -> bool:
        """Whether an event of it is waiting for answers."""
        return self.in_flight is not None

    def read(self, sent: Iterable[pb.AgentObservation], at_end: bool = False) -> list[Reading]:
        """What an event says, in its order; changes nothing.

        Args:
            sent: the agents that it names.
            at_end: the event ends the episode: no action follows.

        Raises:
            FarsimError: something in it is wrong.
        """
        readings: list[Reading] = []
        for number, message in enumerate(sent):
            reading = self._read(message, f"agents[{number}]", at_end)
            if any(other.part.agent == reading.part.agent for other in readings):
                raise InvalidArgument(
                    f"agent '{reading.part.agent}' is named twice in one event",
                    f"agents[{number}].agent",
                )
            readings.append(reading)
        new = sum(reading.part.agent not in self._parts for reading in readings)
        if len(self._parts) + new > self._max_agents:
            raise LimitExceeded(
                f"an episode has at most {self._max_agents} agents on this server", "agents"
            )
        return readings

    def query(self, reading: Reading) -> Query | None:
        """What to ask the policy about a reading; None if it need not be asked."""
        asked = reading.acts and (
            not reading.is_logged
            or self.live.mode == pb.LIVE_MODE_SHADOW
            # So that it remembers what was seen while someone else acted.
            or reading.part.policy.spec.is_recurrent
        )
        if not asked:
            return None
        part = reading.part
        return Query(reading.observation, reading.masks, part.state, self._greedy, part)

    def commit(
        self, readings: Sequence[Reading], answers: Mapping[str, Answer], seconds: float = 0.0
    ) -> None:
        """Carries out what was read.

        Args:
            readings: from ``read``, with nothing committed since.
            answers: by agent, for each reading that is answered, and for those that were asked
                about besides.
            seconds: that the answers took.
        """
        steps, decisions = [], []
        for reading in readings:
            part = self._parts.setdefault(reading.part.agent, reading.part)
            if reading.is_overridden and part.decision is not None:
                part.decision.action = reading.taken
                part.decision.is_overridden = part.decision.answer is not None
            part.reward += reading.reward
            part.is_over = reading.terminated or reading.truncated
            if not reading.has_observation and not part.is_over:
                continue
            steps.append(_step(part, reading))
            part.reward, part.decision = 0.0, None
            if reading.acts:
                answer = answers.get(part.agent)
                part.decision = _decision(reading, answer, seconds)
                part.state = part.state if answer is None else answer.state
                decisions.append(part.decision)
        if steps:
            self._tell(lambda sink: sink.stepped(self.live, steps))
        if decisions:
            self._tell(lambda sink: sink.acted(self.live, decisions))

    def close(self, end: End) -> None:
        """Ends it; agents whose part goes on are truncated. Later calls do nothing."""
        if self.is_over:
            return
        self.is_over = True
        if self.in_flight is not None:
            # They were received, so they happened; but nobody has acted on them any more.
            for reading in self.in_flight:
                reading.truncated = reading.truncated or reading.acts
            self.commit(self.in_flight, {})
            self.in_flight = None
        steps = [_step(part, None) for part in self._parts.values() if not part.is_over]
        if steps:
            self._tell(lambda sink: sink.stepped(self.live, steps))
        self._tell(lambda sink: sink.ended(self.live, end))

    def _read(self, sent: pb.AgentObservation, subject: str, at_end: bool) -> Reading:
        agent = sent.agent or SINGLE_AGENT
        part = self._parts.get(agent)
        if part is None:
            part = Part(agent, self._policies.of_agent(agent))
        if part.is_over:
            raise EpisodeOver(
                f"the part of agent '{agent}' in episode {self.live.number} is over; start "
                "another episode",
                f"{subject}.agent",
            )
        if not math.isfinite(sent.reward):
            raise InvalidArgument(
                f"the reward of agent '{agent}' is {sent.reward}; it has to be finite",
                f"{subject}.reward",
            )
        truncated = sent.truncated or (at_end and not sent.terminated)
        reading = Reading(
            part=part,
            sent_as=sent.agent,
            has_observation=sent.HasField("observation"),
            observation=None,
            masks=(),
            reward=sent.reward,
            terminated=sent.terminated,
            truncated=truncated,
            logged=None,
            is_logged=sent.HasField("logged_action"),
            taken=None,
            is_overridden=False,
        )
        self._read_observation(reading, sent, subject)
        self._read_actions(reading, sent, subject)
        return reading

    def _read_observation(self, reading: Reading, sent: pb.AgentObservation, subject: str) -> None:
        policy = reading.part.policy
        if reading.has_observation:
            (reading.observation,) = policy.observations(
                sent.observation, 1, f"{subject}.observation"
            )
            (reading.masks,) = policy.masks(
                sent.action_masks, 1, f"{subject}.action_masks", reading.acts
            )
        elif sent.action_masks:
            raise InvalidArgument(
                f"agent '{reading.part.agent}' has masks without an observation",
                f"{subject}.action_masks",
            )

    def _read_actions(self, reading: Reading, sent: pb.AgentObservation, subject: str) -> None:
        part = reading.part
        if reading.is_logged:
            if not reading.acts:
                raise InvalidArgument(
                    f"agent '{part.agent}' has a logged action where none follows: it needs an "
                    "observation that its part goes on with",
                    f"{subject}.logged_action",
                )
            reading.logged = part.policy.action(sent.logged_action, f"{subject}.logged_action")
        elif reading.acts and self.live.mode == pb.LIVE_MODE_SHADOW:
            raise InvalidArgument(
                f"agent '{part.agent}' has an observation without a logged action; with SHADOW "
                "the simulator keeps its own actions, and every one of them has to be said",
                f"{subject}.logged_action",
            )
        if sent.HasField("action_taken"):
            if part.decision is None:
                raise ProtocolError(
                    f"agent '{part.agent}' had no action to take before this event",
                    f"{subject}.action_taken",
                )
            reading.taken = part.policy.action(sent.action_taken, f"{subject}.action_taken")
            reading.is_overridden = not part.policy.same_action(part.decision.action, reading.taken)

    def _tell(self, call: Callable[[EpisodeSink], None]) -> None:
        for sink in self._sinks:
            try:
                call(sink)
            except Exception:
                logger.exception("%s failed in episode %s", type(sink).__name__, self.live.name)


def _step(part: Part, reading: Reading | None) -> AgentStep:
    """The step that ``reading`` makes, or the last one of a part that goes on without it."""
    return AgentStep(
        agent=part.agent,
        policy=part.policy.name,
        previous=part.decision,
        reward=part.reward,
        observation=reading.observation if reading else None,
        action_masks=reading.masks if reading else (),
        terminated=reading.terminated if reading else False,
        truncated=reading.truncated if reading else True,
    )


def _decision(reading: Reading, answer: Answer | None, seconds: float) -> Decision:
    action = reading.logged if answer is None or reading.is_logged else answer.action
    return Decision(
        agent=reading.part.agent,
        policy=reading.part.policy.name,
        observation=reading.observation,
        action_masks=reading.masks,
        answer=answer,
        action=action,
        is_logged=reading.is_logged,
        seconds=seconds if answer is not None else 0.0,
    )
