"""The environments of a vector environment that are on one server, whichever that is now."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agent.batch import Batch, BatchedValue, IntArray, rows_of
from agent.description import Group, SimulatorDescription
from agent.last_seen import LastSeen
from agent.options import Each
from agent.pieces import Piece
from agent.placement import Placement
from agent.session import Pending, Session
from farsim import spaces
from farsim.errors import EpisodeOver, FarsimError, ProtocolError, SessionLost, SimulatorFault

logger = logging.getLogger(__name__)

#: How often a reset that comes to nothing is tried before it is an error.
_RESET_ATTEMPTS = 4


class State(enum.IntEnum):
    """Where an environment is, as far as the caller has been told."""

    RUNNING = 0
    #: Its episode is over; the server starts the next one, or waits for a reset.
    OVER = 1
    #: Its episode is over, and the present session has not begun one yet.
    UNBORN = 2
    #: Its episode went with a session, and the caller has not been told.
    GONE = 3


#: As NumPy takes them; it is slow with members of an enum.
_RUNNING, _OVER, _GONE = int(State.RUNNING), int(State.OVER), int(State.GONE)


@dataclass
class Sent:
    """A request on its way.

    Attributes:
        pending: None if the session was found lost on sending it.
        envs: which environments, counted from the shard's first row.
        seeds: None for a step; of a reset, one for each of ``envs``, or none at all.
        options: of a reset.
    """

    pending: Pending | None
    envs: IntArray
    seeds: Sequence[int] | None = None
    options: Mapping[str, Any] | None = None

    @property
    def is_reset(self) -> bool:
        return self.options is not None


class Shard:
    """Consecutive environments of many, kept going over sessions that come and go.

    When a session is lost, the episodes of all its environments end as truncated, with the reason
    as a fault, and the next request that needs them opens a new session: at the same address or
    another, with new seeds, and with the options of the last reset.

    Use: ``send_reset`` or ``send_step``, then ``receive``.

    Args:
        placement: opens the sessions.
        first: the number of the shard's first environment.
        number: of the shard, to tell its seeds from other shards'.
        like: another shard of the same simulator; with it, this one begins without a session.

    Raises:
        ServerUnavailable: no server takes the environments.
    """

    def __init__(
        self, placement: Placement, first: int, number: int, like: Shard | None = None
    ) -> None:
        self.num_envs = placement.num_envs
        self.first = first
        #: The numbers of its environments.
        self.environments = np.arange(first, first + self.num_envs)
        self.session: Session | None = placement.open() if like is None else None
        source = like or self.session
        assert source is not None
        #: What the server says; sessions opened later have the same agents and spaces.
        self.description: SimulatorDescription = source.description
        self.groups: tuple[Group, ...] = source.groups
        self.max_episode_steps: int = source.max_episode_steps
        #: For each group, what is known of rows that a reply says nothing about.
        self.seen = [LastSeen(group, self.num_envs) for group in self.groups]
        #: What seeds of sessions opened later are derived from; anything ``SeedSequence`` takes.
        self.entropy: Any = np.random.SeedSequence().entropy
        self._placement = placement
        self._mode = placement.wish.autoreset_mode
        self._number = number
        self._sessions = 1
        self._states = np.full(self.num_envs, State.UNBORN, np.int8)
        self._everyone = np.arange(self.num_envs)
        #: The per-episode options given last, for each environment.
        self._options: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._sent: list[Sent] = []
        self._reason = ""
        #: Requests of the present call that may have changed something.
        self._effects = 0

    @property
    def is_lost(self) -> bool:
        """Whether the next request has to open a session first, which may take long."""
        return self.session is None

    @property
    def may_have_advanced(self) -> bool:
        """Whether environments may be elsewhere than before the present call."""
        return self._effects > 0

    @property
    def has_begun(self) -> bool:
        """Whether there has been a reset; the first is of all environments."""
        return self.seen[0].observation is not None

    # -- requests -------------------------------------------------------------------------

    def send_reset(
        self, envs: IntArray, seeds: Sequence[int | None] | None, options: Mapping[str, Any]
    ) -> None:
        """Begins new episodes.

        Args:
            envs: which environments, counted from the shard's first; increasing.
            seeds: one for each; None goes on with the environment's random stream.
            options: per-episode parameters; ``Each`` has values for ``envs``.

        Raises:
            ServerUnavailable: the session was lost, and no server takes the environments.
        """
        if not len(envs):
            return
        self._open_if_lost()
        self._send_resets(envs, seeds, options)

    def check_running(self) -> None:
        """Raises unless a step is possible for all environments."""
        if not self.has_begun:
            raise ProtocolError("reset() comes before the first step()")
        if self._mode is AutoresetMode.DISABLED:
            over = np.isin(self._states, (State.OVER, State.UNBORN))
            if over.any():
                raise EpisodeOver(
                    f"the episodes of environments {self.environments[over].tolist()} are over: "
                    "call reset with options={'reset_mask': ...} for them first"
                )

    def send_step(self, actions: Sequence[BatchedValue]) -> None:
        """Advances all environments; those whose session was lost begin a new episode.

        Args:
            actions: for each group a batched value with a row for each agent of each environment.
                The rows of agents that are to act are in the action space.

        Raises:
            ServerUnavailable: the session was lost, and no server takes the environments.
        """
        self._open_if_lost()
        if not np.count_nonzero(self._states > _OVER):
            self._send_step(self._everyone, actions)
            return
        known = np.flatnonzero(self._states <= State.OVER)
        unborn = np.flatnonzero(self._states == State.UNBORN)
        if len(known):
            self._send_step(known, actions)
        if len(unborn):
            self._send_resets(unborn, None, {})

    def receive_reset(self) -> list[Piece]:
        """The new episodes. If the session is lost meanwhile, they begin in another one.

        Raises:
            ServerUnavailable: no server takes the environments.
            SimulatorFault: an environment can not be reset.
            FarsimError: what the server answered.
        """
        sent, self._sent = self._sent, []
        for _ in range(_RESET_ATTEMPTS):
            pieces = [piece for request in sent for piece in self._begun(request)]
            if self.session is not None:
                for request in sent:
                    self._remember(request)
                self._note(pieces)
                return pieces
            # What had begun before the session was lost has to begin again, too.
            self._open_if_lost()
            for request in sent:
                self._send_resets(request.envs, request.seeds, request.options or {})
            sent, self._sent = self._sent, []
        raise SessionLost(
            f"{_RESET_ATTEMPTS} sessions were lost while environments were reset; at last: "
            f"{self._reason}"
        )

    def receive_step(self) -> list[Piece]:
        """What became of the step, for all environments.

        Raises:
            ServerUnavailable: with ``SAME_STEP``, no server takes the environments.
            SimulatorFault: an environment can not be reset.
            FarsimError: what the server answered.
        """
        sent, self._sent = self._sent, []
        pieces: list[Piece] = []
        for request in sent:
            if request.is_reset:
                pieces += self._begun(request)
            else:
                pieces += self._stepped(request)
        if self.session is None:
            # Whatever came before is of environments that are gone, and of no use to anyone.
            pieces = self._cut(np.arange(self.num_envs))
        elif np.count_nonzero(self._states == _GONE):
            pieces += self._cut(np.flatnonzero(self._states == _GONE))
        self._note(pieces)
        if self.session is not None and self._mode is not AutoresetMode.SAME_STEP:
            for request in sent:
                if not request.is_reset:
                    self._note_over(request.envs)
        return pieces

    def _note_over(self, envs: IntArray) -> None:
        """Tells episodes that are over from those that go on, after a step of ``envs``."""
        if all(seen.going_on is seen.everyone for seen in self.seen):
            self._states[envs] = _RUNNING
        else:
            over = self._nobody([seen.going_on for seen in self.seen], envs)
            self._states[envs] = np.where(over, _OVER, _RUNNING)

    def begin(self) -> None:
        """Begins a call; what is left of one that was given up is nobody's business any more."""
        self._sent = []
        self._effects = 0

    def close(self) -> None:
        """Frees the environments; again does nothing."""
        if self.session is not None:
            self.session.close()

    # -- sending --------------------------------------------------------------------------

    def _open_if_lost(self) -> None:
        if self.session is None:
            self.session = self._placement.open()
            self._sessions += 1

    def _send_step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> None:
        if envs is self._everyone and all(seen.everyone_acts for seen in self.seen):
            self._send(Sent(None, envs), lambda session, named: session.send_step(actions))
            return
        chosen, rows = [], []
        for seen, action in zip(self.seen, actions, strict=True):
            named = seen.to_send(envs, lambda: self._idle(envs))
            if named is not None or len(envs) < self.num_envs:
                every = rows_of(envs, len(seen.group.agents)) if named is None else named
                action = spaces.take(seen.group.action_space, action, every)
            chosen.append(action)
            rows.append(named)
        self._send(
            Sent(None, envs),
            lambda session, named: session.send_step(chosen, named, rows=rows),
        )

    def _idle(self, envs: IntArray) -> NDArray[np.bool_]:
        """Of environments, in which no agent's episode goes on."""
        return self._nobody([seen.going_on for seen in self.seen], envs)

    def _nobody(self, flags: Sequence[NDArray[np.bool_]], envs: IntArray) -> NDArray[np.bool_]:
        """Of environments, in which no agent of any group has its flag set."""
        if len(flags) == 1 and len(flags[0]) == self.num_envs:
            return ~flags[0][envs]
        anybody = np.zeros(self.num_envs, np.bool_)
        for of_group in flags:
            anybody |= of_group.reshape(self.num_envs, -1).any(axis=1)
        return ~anybody[envs]

    def _send_resets(
        self, envs: IntArray, seeds: Sequence[int | None] | None, options: Mapping[str, Any]
    ) -> None:
        """One request for the environments with a seed, and one for those without."""
        chosen = np.array(seeds if seeds is not None else [None] * len(envs), object)
        new = self._states[envs] >= State.UNBORN
        if self._sessions > 1 and new.any():
            # The seeds of sessions before are used up: their episodes must not come again.
            fresh = np.random.SeedSequence(
                self.entropy, spawn_key=(self._number, self._sessions)
            ).generate_state(self.num_envs)
            missing = new & np.array([seed is None for seed in chosen])
            chosen[missing] = fresh[envs[missing]].tolist()
            options = self._all_options(envs, options)
        seeded = np.array([seed is not None for seed in chosen])
        for part in (seeded, ~seeded):
            places = np.flatnonzero(part)
            if len(places):
                seeds_of_part = chosen[places].tolist() if part is seeded else None
                of_part = {name: _select(value, places) for name, value in options.items()}
                self._send_reset(envs[places], seeds_of_part, of_part)

    def _send_reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, Any]
    ) -> None:
        self._send(
            Sent(None, envs, seeds, options),
            lambda session, named: session.send_reset(named, seeds, options),
        )

    def _send(self, request: Sent, send: Callable[[Session, IntArray | None], Pending]) -> None:
        session = self.session
        if session is not None:
            named = None if len(request.envs) == self.num_envs else request.envs
            try:
                request.pending = send(session, named)
                self._effects += 1
            except FarsimError:
                if session.failure is None:
                    raise
                self._lose(session)
        self._sent.append(request)

    def _all_options(self, envs: IntArray, options: Mapping[str, Any]) -> dict[str, Any]:
        """The per-episode options that hold for ``envs``, to tell a new session."""
        defaults = self.session.options if self.session is not None else {}
        values = []
        for place, env in enumerate(envs.tolist()):
            given = {name: _pick(value, place) for name, value in options.items()}
            values.append({**self._options[env], **given})
        names = sorted({name for chosen in values for name in chosen})
        return {name: Each([v.get(name, defaults.get(name)) for v in values]) for name in names}

    # -- receiving ------------------------------------------------------------------------

    def _receive(self, request: Sent) -> Batch | None:
        """The reply; None if the session is lost."""
        session = self.session
        if session is None or request.pending is None:
            return None
        try:
            batch: Batch = session.receive(request.pending)
        except FarsimError:
            if session.failure is None:
                if self._effects == 1:
                    self._effects = 0  # Nothing has happened, and nothing else was asked for.
                raise
            self._lose(session)
            return None
        return batch

    def _stepped(self, request: Sent) -> list[Piece]:
        batch = self._receive(request)
        if batch is None:
            return []
        return [Piece.of_batch(batch, self.groups, self.first)]

    def _begun(self, request: Sent) -> list[Piece]:
        """The reply to a reset, which is repeated for environments that fail in it."""
        pieces: list[Piece] = []
        reason = ""
        for _ in range(_RESET_ATTEMPTS):
            batch = self._receive(request)
            if batch is None:
                return []
            piece = Piece.of_batch(batch, self.groups, self.first)
            good = np.flatnonzero(~np.isin(request.envs, list(batch.faults)))
            if batch.faults:
                piece = piece.keep(self.groups, self.environments[request.envs[good]])
            pieces.append(piece)
            self._states[request.envs[good]] = State.RUNNING
            if not batch.faults:
                return pieces
            bad = np.flatnonzero(np.isin(request.envs, list(batch.faults)))
            of_bad = {name: _select(value, bad) for name, value in (request.options or {}).items()}
            reason = str(next(iter(batch.faults.values())))
            # Without seeds: the same ones might fail in the same way.
            self._send_reset(request.envs[bad], None, of_bad)
            request = self._sent.pop()
        raise SimulatorFault(
            f"environments {self.environments[request.envs].tolist()} on "
            f"{self._placement.addresses[0]} could not be reset {_RESET_ATTEMPTS} times in a row: "
            f"{reason}"
        )

    def _lose(self, session: Session) -> None:
        self._reason = str(session.failure)
        logger.warning("lost %d environments: %s", self.num_envs, self._reason)
        self._effects += 1
        self.session = None
        session.close()
        self._states[self._states == State.RUNNING] = State.GONE
        self._states[self._states == State.OVER] = State.UNBORN

    def _cut(self, envs: IntArray) -> list[Piece]:
        """Tells the caller that the episodes of ``envs`` are gone, and why."""
        lost = self._lost(envs)
        if self._mode is not AutoresetMode.SAME_STEP:
            return [lost]
        self.send_reset(envs, None, {})
        return [begun.after(self.groups, lost) for begun in self.receive_reset()]

    def _lost(self, envs: IntArray) -> Piece:
        """The ends of episodes that went with a session."""
        reason = self._reason
        idle = self._idle(envs)
        last = []
        for seen in self.seen:
            rows, observation, masks = seen.ending(envs, idle)
            last.append((rows + self.first * len(seen.group.agents), observation, masks))
        self._states[envs] = State.UNBORN
        return Piece.cut(self.environments[envs], last, reason)

    def _remember(self, reset: Sent) -> None:
        """Keeps the options of a reset that went well, for sessions to come."""
        for name, value in (reset.options or {}).items():
            for place, env in enumerate(reset.envs.tolist()):
                self._options[env][name] = _pick(value, place)

    def _note(self, pieces: Sequence[Piece]) -> None:
        """Remembers what was last seen of each agent."""
        for piece in pieces:
            envs, started = piece.environments, piece.started
            if self.first:
                envs, started = envs - self.first, started - self.first
            for seen, part in zip(self.seen, piece.groups, strict=True):
                seen.note(part, self.first * len(seen.group.agents), envs, started)


def _pick(value: Any, place: int) -> Any:
    return value.values[place] if isinstance(value, Each) else value


def _select(value: Any, places: IntArray) -> Any:
    return Each([value.values[i] for i in places]) if isinstance(value, Each) else value
