"""What happens in an episode of a live simulator, whoever waits for the server, and how."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from farsim import errors
from farsim.errors import (
    DeadlineExceeded,
    FarsimError,
    InvalidArgument,
    ProtocolError,
)
from farsim.live import fallback as fallbacks
from farsim.live.interface import Interface, Role, pack_masks
from farsim.live.session import Sent, Session
from farsim.live.steps import Join, Post, Request, Send, Steps, Wait
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import tensor_pb2

#: Errors for which a declared fallback acts: nothing that the caller has done.
_OUTAGES = (
    errors.DeadlineExceeded,
    errors.ServerUnavailable,
    errors.SessionLost,
    errors.AuthenticationFailed,
    errors.InternalError,
    errors.LimitExceeded,
    errors.Draining,
)


@dataclass(frozen=True)
class Rules:
    """How a client's episodes are played.

    Attributes:
        interface: who acts.
        mode: of the sessions.
        deadline: seconds for an answer.
        fallback: what acts instead; None for an error.
        numbers: of episodes, none twice.
        address: for errors.
    """

    interface: Interface
    mode: pb.LiveMode
    deadline: float
    fallback: fallbacks.Fallback | None
    numbers: Iterator[int]
    address: str

    @property
    def learns(self) -> bool:
        """Whether what is told has to be complete."""
        return self.mode != pb.LIVE_MODE_SERVE


@dataclass
class Named:
    """What is told of an agent. ``observation`` is None where nothing new is seen."""

    agent: str
    observation: tensor_pb2.Value | None = None
    raw: Any = None
    reward: float = 0.0
    masks: Sequence[np.ndarray[Any, Any]] = ()
    terminated: bool = False
    truncated: bool = False
    logged: Any = None
    is_logged: bool = False
    taken: Any = None
    is_taken: bool = False

    @property
    def acts(self) -> bool:
        return self.observation is not None and not self.has_ended and not self.is_logged

    @property
    def has_ended(self) -> bool:
        return self.terminated or self.truncated


@dataclass
class _Part:
    """An agent's part in the episode so far."""

    role: Role
    #: Earned since the server was last told.
    reward: float = 0.0
    has_acted: bool = False
    last: Any = None
    #: The action that was really taken, if it is not the one in the reply.
    taken: tensor_pb2.Value | None = None
    #: The reply did not come in time and nobody has said yet what was done instead.
    owes_action: bool = False
    has_ended: bool = False


@dataclass
class Play:
    """An episode, as the client knows it. For one thread at a time.

    Attributes:
        rules: of the client.
        fallbacks: how many actions were the fallback's.
        lost: why the server no longer knows all of the episode; None as long as it does.
        policy_version: of the last action; 0 before there is one.
        is_over: whether it has ended here.
    """

    rules: Rules
    fallbacks: int = 0
    lost: FarsimError | None = None
    policy_version: int = 0
    is_over: bool = False
    _session: Session | None = None
    _number: int = 0
    _parts: dict[str, _Part] = field(default_factory=dict)
    #: Sent, and not yet seen to be answered well.
    _pending: list[Sent] = field(default_factory=list)

    # -- what callers ask for -----------------------------------------------------------------

    def observe(self, named: Sequence[Named]) -> Steps:
        """Tells what agents see; returns an action for each that acts, by agent."""
        self._check(named)
        acting = [one for one in named if one.acts]
        if acting and self.rules.mode == pb.LIVE_MODE_SHADOW:
            raise InvalidArgument(
                "with mode 'shadow' the simulator keeps its own actions: use log_action", "mode"
            )
        if self._is_detached:
            return self._act_instead(acting, named)
        until = time.monotonic() + self.rules.deadline
        event = pb.LiveEvent(observe=pb.Observe(agents=[self._message(one) for one in named]))
        try:
            sent = yield from self._send("observe", event, until, bool(acting))
        except FarsimError as error:
            return self._missed(error, acting, named)
        before = self._tell(named)
        self._pending.append(sent)
        if not acting:
            return {}
        for one in acting:
            part = self._part(one.agent)
            part.has_acted = part.owes_action = True
        try:
            yield Wait(sent, until)
        except FarsimError as error:
            return self._late(error, acting)
        self._pending.remove(sent)
        if sent.error is not None:
            return self._refused(sent.error, acting, named, before)
        return self._actions(sent, acting)

    def end(self, named: Sequence[Named]) -> Steps:
        """Ends the episode with the last that agents see."""
        self._check(named)
        session = self._session
        if session is None or self._is_detached:
            return (yield from self.abort())
        until = time.monotonic() + self.rules.deadline
        agents = [self._message(one) for one in named]
        told = {one.agent for one in named}
        for agent, part in self._parts.items():
            if part.reward and not part.has_ended and agent not in told:
                agents.append(self._message(Named(agent)))
        event = pb.LiveEvent(end=pb.EpisodeEnd(agents=agents))
        try:
            sent = yield from self._send("end", event, until, True)
        except FarsimError as error:
            self._tolerate(error)
            return (yield from self.abort())
        self.is_over = True
        try:
            yield Wait(sent, until)
        except FarsimError:
            if self.rules.fallback is None:
                raise
            return None  # It arrives as soon as the server is back.
        if sent.error is not None:
            self.is_over = False
            self._tolerate(self._refusal() or sent.error)
            return (yield from self.abort())
        refusal = self._refusal()
        if refusal is not None:
            self._tolerate(refusal)
        return None

    def abort(self) -> Steps:
        """Ends the episode as one that is worth nothing; never waits, never fails."""
        session, self._session = self._session, None
        self.is_over = True
        if session is not None and not session.is_lost:
            event = pb.LiveEvent(end=pb.EpisodeEnd(episode=self._number, aborted=True))
            yield Post(session, "end", event)
        return None

    def earn(self, agent: str, reward: float) -> None:
        """Adds to what the agent has earned since the server was last told."""
        self._check(())
        self._part(agent).reward += checked_reward(reward, agent)

    # -- sending ------------------------------------------------------------------------------

    @property
    def _is_detached(self) -> bool:
        """Whether the rest is played without the server, as it can not learn from it any more."""
        return self.lost is not None and self.rules.learns

    def _send(self, what: str, event: pb.LiveEvent, until: float, is_awaited: bool) -> Steps:
        """Sends an event of this episode, which begins if it has not."""
        if self._session is not None and self._session.is_lost:
            yield from self._leave(self._session)
        if self._session is None:
            # With a fallback there is no point in waiting for a server that is away.
            session = yield Join(until if self.rules.fallback is None else 0.0)
            number = next(self.rules.numbers)
            start = pb.LiveEvent(start=pb.EpisodeStart(episode=number))
            self._pending.append((yield Send(session, "start", start, until)))
            self._session, self._number = session, number
        getattr(event, what).episode = self._number
        return (yield Send(self._session, what, event, until, is_awaited))

    def _leave(self, session: Session) -> Generator[Request, Any, None]:
        """The session is lost, and with it the episode, unless nothing is learned from it."""
        error = session.failure or errors.SessionLost(
            f"the server at {self.rules.address} is about to stop: begin another episode",
            self.rules.address,
        )
        if not self._goes_on:
            raise type(error)(error.message, error.subject)
        self._session = None
        self._pending.clear()
        for part in self._parts.values():
            part.taken, part.has_acted = None, False
        yield from ()

    def _message(self, named: Named) -> pb.AgentObservation:
        part = self._part(named.agent)
        message = pb.AgentObservation(
            agent=named.agent,
            observation=named.observation,
            action_masks=pack_masks(named.masks),
            reward=part.reward + named.reward,
            terminated=named.terminated,
            truncated=named.truncated,
            action_taken=part.taken,
        )
        if named.is_logged:
            message.logged_action.CopyFrom(part.role.encode_action(named.logged, named.agent))
        if named.is_taken:
            message.action_taken.CopyFrom(part.role.encode_action(named.taken, named.agent))
        return message

    def _tell(self, named: Sequence[Named]) -> list[tuple[float, tensor_pb2.Value | None]]:
        """They are on their way; what to put back if they are refused."""
        before = []
        for one in named:
            part = self._part(one.agent)
            before.append((part.reward, part.taken))
            part.reward, part.taken, part.owes_action = 0.0, None, False
            self._note(one)
        return before

    def _note(self, one: Named) -> None:
        part = self._part(one.agent)
        part.has_ended = one.has_ended
        if one.is_taken:
            part.last = one.taken
        if one.is_logged:
            part.last, part.has_acted = one.logged, True

    # -- what comes of it ---------------------------------------------------------------------

    def _actions(self, sent: Sent, acting: Sequence[Named]) -> dict[str, Any]:
        reply = sent.reply.actions if sent.reply is not None else pb.Actions()
        if reply.episode != self._number or [one.agent for one in reply.agents] != [
            one.agent for one in acting
        ]:
            raise ProtocolError(
                f"{self.rules.address} sent actions for {[one.agent for one in reply.agents]} in "
                f"episode {reply.episode}, not for {[one.agent for one in acting]} in episode "
                f"{self._number}",
                self.rules.address,
            )
        actions = {}
        for one in reply.agents:
            part = self._part(one.agent)
            part.last = actions[one.agent] = part.role.decode_action(one.action)
            part.owes_action = False
            self.policy_version = one.policy_version
        return actions

    def _late(self, error: FarsimError, acting: Sequence[Named]) -> dict[str, Any]:
        """The server has been told, or will be, but the answer does not come in time."""
        if self.rules.fallback is None:
            raise error
        actions = self._act_instead(acting, ())
        for agent, action in actions.items():
            part = self._part(agent)
            part.taken, part.owes_action = part.role.encode_action(action, agent), False
        return actions

    def _missed(
        self, error: FarsimError, acting: Sequence[Named], named: Sequence[Named]
    ) -> dict[str, Any]:
        """The server has not been told, and will not be."""
        self._tolerate(error)
        return self._act_instead(acting, named)

    def _refused(
        self,
        error: FarsimError,
        acting: Sequence[Named],
        named: Sequence[Named],
        before: list[tuple[float, tensor_pb2.Value | None]],
    ) -> dict[str, Any]:
        """The server's episode is as it was before."""
        for one, (reward, taken) in zip(named, before, strict=True):
            part = self._part(one.agent)
            part.reward, part.taken, part.has_ended = reward, taken, False
            part.owes_action = False
        return self._missed(self._refusal() or error, acting, named)

    def _act_instead(self, acting: Sequence[Named], named: Sequence[Named]) -> dict[str, Any]:
        """The fallback's actions, after what was to be told has been noted."""
        for one in named:
            self._part(one.agent).reward += one.reward
            self._note(one)
        actions = {}
        for one in acting:
            if self.rules.fallback is None:
                self._raise_lost()
            part = self._part(one.agent)
            several = self.rules.interface.is_multi_agent
            arguments = (one.agent, one.raw) if several else (one.raw,)
            action = fallbacks.act(self.rules.fallback, part.role, part.last, one.masks, arguments)
            part.last = actions[one.agent] = action
            self.fallbacks += 1
        return actions

    def _tolerate(self, error: FarsimError) -> None:
        """Goes on without the server if that was agreed on, else raises."""
        session = self._session
        lost = session is not None and session.is_lost
        if not lost and not isinstance(error, _OUTAGES):
            raise error
        if self.rules.fallback is None:
            if lost:
                self.is_over = True
            raise error
        self.lost = self.lost or error

    def _raise_lost(self) -> NoReturn:
        raise self.lost or DeadlineExceeded("there is no fallback", "fallback")

    # -- checks -------------------------------------------------------------------------------

    def _check(self, named: Sequence[Named]) -> None:
        if self.is_over:
            raise ProtocolError("this episode is over: begin another one", "episode")
        refusal = None if self._is_detached else self._refusal()
        if refusal is not None:
            self._tolerate(refusal)
            self._pending.clear()
        for one in named:
            part = self._part(one.agent)
            if part.has_ended:
                raise InvalidArgument(
                    f"the part of agent '{one.agent}' in this episode has ended", one.agent
                )
            if one.has_ended and one.observation is None:
                raise InvalidArgument(
                    f"agent '{one.agent}' ends without its last observation: give that as well",
                    one.agent,
                )
            if part.owes_action and not one.is_taken and not self._is_detached:
                raise InvalidArgument(
                    f"the action for agent '{one.agent}' came too late: say with action_taken "
                    "what it did instead, or declare a fallback",
                    one.agent,
                )
            if one.is_taken and not part.has_acted and not self._is_detached:
                raise InvalidArgument(
                    f"agent '{one.agent}' has seen nothing yet that it could act on: leave "
                    "action_taken out",
                    one.agent,
                )

    def _refusal(self) -> FarsimError | None:
        """What the server said meanwhile against something that nobody waited for."""
        for sent in self._pending:
            if sent.error is not None and sent.session.failure is None:
                if sent.what == "start" and self._goes_on:
                    self._session = None  # Another one is begun with the next event.
                return sent.error
        self._pending = [sent for sent in self._pending if not sent.is_done]
        return None

    @property
    def _goes_on(self) -> bool:
        """Whether the episode outlives what the server has lost or missed of it."""
        return self.rules.fallback is not None and not self.rules.learns

    def _part(self, agent: str) -> _Part:
        part = self._parts.get(agent)
        if part is None:
            part = self._parts[agent] = _Part(self.rules.interface.role(agent))
        return part


def checked_reward(reward: Any, agent: str) -> float:
    """A reward as a float.

    Raises:
        InvalidArgument: it is no finite number.
    """
    try:
        value = float(reward)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InvalidArgument(f"the reward of '{agent}' is a finite number, not {reward!r}", agent)
    return value


def by_agent(values: Any, what: str) -> Mapping[str, Any]:
    """``values`` if they are told apart by agent.

    Raises:
        InvalidArgument: they are not.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InvalidArgument(
            f"there are several agents here: {what} is a mapping by agent, not "
            f"{type(values).__name__}",
            what,
        )
    return values
