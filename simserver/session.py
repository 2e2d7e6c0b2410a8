"""One client's environments on this server: requests in, replies out, each carried out once."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

import simserver.description as describe
from farsim import spaces, tensors
from farsim.errors import (
    Draining,
    FarsimError,
    InternalError,
    InvalidAction,
    InvalidArgument,
    LimitExceeded,
    ProtocolError,
    SequenceError,
    SimulatorFault,
    Unsupported,
    to_proto,
)
from farsim.layout import header
from farsim.steps import StepPlan, StepPlans, number_field
from farsim.v1 import simulator_pb2 as pb
from simserver import actions
from simserver.catalogue import Entry
from simserver.episodes import Episodes
from simserver.limits import Limits
from simserver.metrics import Metrics
from simserver.simulator import Batch, BatchedValue, IntArray

logger = logging.getLogger(__name__)

_MODES = {value: mode for mode, value in describe.AUTORESET_MODES.items()} | {
    pb.AUTORESET_MODE_UNSPECIFIED: AutoresetMode.NEXT_STEP
}
_MAX_HEARTBEAT_SECONDS = 60.0
_TIMING = pb.SimReply.TIMING_FIELD_NUMBER
_NOTHING = pb.SimRequest()


class _Asked(NamedTuple):
    """A request: the message, or of a step that follows a plan the plan and the actions."""

    sequence: int
    kind: str | None
    request: pb.SimRequest
    plan: StepPlan | None = None
    actions: list[BatchedValue] | None = None


class Session:
    """A leased set of environments, which outlives the streams that carry it.

    ``answer`` may be called from the thread of whichever stream carries the session; one request
    is carried out at a time, and its reply is kept until ``max_in_flight`` later ones have been.

    Args:
        entry: the simulator.
        request: what the client asked for.
        limits: the server's.
        metrics: the server's.
        debug: whether tracebacks cross the wire.
        draining: whether the server is about to stop.

    Raises:
        FarsimError: the request can not be granted.
    """

    def __init__(
        self,
        entry: Entry,
        request: pb.Open,
        limits: Limits,
        metrics: Metrics,
        debug: bool,
        draining: Callable[[], bool],
    ) -> None:
        self.token = secrets.token_urlsafe(24)
        self.num_envs = request.num_environments
        self.lease_seconds = min(request.lease_seconds or np.inf, limits.lease_seconds)
        self.heartbeat_seconds = min(
            request.heartbeat_seconds or limits.heartbeat_seconds, _MAX_HEARTBEAT_SECONDS
        )
        self._limits, self._debug = limits, debug
        self._draining = draining
        self.entry = entry
        self._render_mode = request.render_mode
        mode = _MODES.get(request.autoreset_mode)
        if mode is None:
            raise InvalidArgument(
                f"autoreset mode {request.autoreset_mode} is none of this version", "autoreset_mode"
            )
        _offered(entry, request, mode)
        self._options = describe.open_options(entry, request.options)
        self._episodes = Episodes(
            lambda: entry.make(self.num_envs, self._options), self.num_envs, mode
        )
        self._plans = StepPlans(self._episodes.groups, self.num_envs)
        self._account = metrics.account(entry.name)
        self._lock = threading.Lock()
        self._replies: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()
        self._next = 1
        #: The request being carried out and when it was begun, for heartbeats; (0, 0.0) if none.
        self.busy: tuple[int, float] = (0, 0.0)
        self.closed = False
        #: Which stream carries the session; any object, compared by identity.
        self.stream: object | None = None
        #: When the last stream broke, ``time.monotonic``; None while one carries the session.
        self.detached_at: float | None = None

    @property
    def last_sequence(self) -> int:
        """The highest number carried out or being carried out."""
        return max(self._next - 1, self.busy[0])

    def has_expired(self, now: float) -> bool:
        """Whether its lease has run out by ``now``, on the clock of ``time.monotonic``."""
        return self.detached_at is not None and now - self.detached_at > self.lease_seconds

    def answer(self, stream: object, raw: bytes) -> bytes | None:
        """The serialised reply to one serialised request; None if ``stream`` was superseded.

        Raises:
            DecodeError: the bytes are no SimRequest.
        """
        asked = self._read(raw)
        sequence = asked.sequence
        with self._lock:
            if self.stream is not stream:
                return None
            if sequence != self._next:
                return self._repeat(sequence, raw)
            self.busy = (sequence, time.monotonic())
            try:
                parts = self._carry_out(asked)
            finally:
                self.busy = (0, 0.0)
            data = self._serialise(asked, parts)
            self._next += 1
            self._replies[sequence] = (raw, data)
            if len(self._replies) > self._limits.max_in_flight:
                self._replies.popitem(last=False)
            return data

    def close(self) -> None:
        """Frees the environments, after the request being carried out if there is one."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        if not self.closed:
            self.closed = True
            self._episodes.close()

    def _repeat(self, sequence: int, raw: bytes) -> bytes:
        kept = self._replies.get(sequence)
        if kept is not None and kept[0] == raw:
            return kept[1]
        if kept is not None:
            text = f"request {sequence} was a different one; use number {self._next} for a new one"
        elif sequence < self._next:
            text = (
                f"request {sequence} is long answered and its reply forgotten; only the last "
                f"{self._limits.max_in_flight} are kept"
            )
        else:
            text = f"request {sequence} came before {self._next}; numbers go up by one"
        return self._error(sequence, SequenceError(text, "sequence")).SerializeToString()

    def _read(self, raw: bytes) -> _Asked:
        step = self._plans.read(raw)
        if step is not None:
            sequence, plan, actions = step
            return _Asked(sequence, "step", _NOTHING, plan, actions)
        request = pb.SimRequest.FromString(raw)
        return _Asked(request.sequence, request.WhichOneof("request"), request)

    def _serialise(self, asked: _Asked, parts: Sequence[Any]) -> bytes:
        data = b"".join((number_field(asked.sequence), *parts))
        bound = self._limits.max_message_bytes
        if len(data) <= bound:
            return data
        if asked.kind in ("reset", "step", "load_state"):
            self._episodes.abandon(self._environments(asked))
        error = LimitExceeded(
            f"the reply has {len(data)} bytes and a message at most {bound}: name fewer "
            "environments (those in this request need a reset now), or serve with a larger "
            "--max-message-bytes"
        )
        return self._error(asked.sequence, error).SerializeToString()

    def _carry_out(self, asked: _Asked) -> Sequence[Any]:
        """The reply but for its number, serialised, as buffers to join."""
        try:
            if self.closed:
                raise ProtocolError("this session is closed; open another one")
            if self._draining():
                raise Draining("the server is about to stop; open a session on another one")
            if asked.kind == "step":
                return self._step(asked)
            return self._carry_out_kind(asked)
        except Exception as error:
            return [self._error(0, error).SerializeToString()]

    def _carry_out_kind(self, asked: _Asked) -> Sequence[Any]:
        request, kind = asked.request, asked.kind
        if kind == "reset":
            return self._reset(asked)
        if kind == "load_state":
            return self._load_state(asked)
        if kind == "open":
            if request.sequence != 1:
                raise ProtocolError(
                    "this session is open already; open another one on a new stream"
                )
            reply = pb.SimReply(opened=self._opened())
        elif kind == "render":
            reply = pb.SimReply(frames=self._render(asked))
        elif kind == "save_state":
            reply = pb.SimReply(states=self._save_state(asked))
        elif kind == "close":
            self._release()
            reply = pb.SimReply(closed=pb.Closed())
        elif kind is None:
            raise ProtocolError("a request without content; set one of open, reset, step, ...")
        else:
            raise ProtocolError(f"'{kind}' is not for this point of a session")
        return [reply.SerializeToString()]

    def _opened(self) -> pb.Opened:
        parameters = self.entry.parameters
        options = {
            parameter.name: spaces.batch(parameter.space, [self._options[parameter.name]])
            for parameter in parameters
        }
        return pb.Opened(
            session_token=self.token,
            groups=[describe.group_to_proto(group) for group in self._episodes.groups],
            options=describe.options_to_proto(parameters, options, 1),
            autoreset_mode=describe.AUTORESET_MODES[self._episodes.mode],
            lease_seconds=self.lease_seconds,
            heartbeat_seconds=self.heartbeat_seconds,
            max_in_flight=self._limits.max_in_flight,
            max_episode_steps=self._episodes.simulator.max_episode_steps,
        )

    def _reset(self, asked: _Asked) -> list[Any]:
        request = asked.request.reset
        envs = self._environments(asked)
        if request.seeds and len(request.seeds) != len(envs):
            raise InvalidArgument(
                f"{len(request.seeds)} seeds for {len(envs)} environments: send none, or one for "
                "each",
                "seeds",
            )
        options = describe.reset_options(self.entry, request.options, len(envs))
        option_spaces = {name: self.entry.parameter(name).space for name in options}
        seeds = list(request.seeds) or None
        return self._batch(envs, self._episodes.reset(envs, seeds, options, option_spaces))

    def _step(self, asked: _Asked) -> list[Any]:
        started = time.perf_counter()
        envs = self._environments(asked)
        plan = asked.plan or self._plans.of(envs)
        given = self._actions(asked, envs)
        decoded = time.perf_counter()
        batch = self._episodes.step(envs, given)
        stepped = time.perf_counter()
        try:
            parts = self._batch(envs, batch, plan)
        except FarsimError as error:
            # The environments have moved on, so this can be no error reply.
            logger.exception(
                "what simulator '%s' returned does not fit its spaces", self.entry.name
            )
            parts = self._batch(envs, self._episodes.fail(envs, error))
        simulator, codec = stepped - decoded, decoded - started + time.perf_counter() - stepped
        self._account.stepped(len(envs), simulator, codec)
        timing = pb.Timing(simulator_seconds=simulator, codec_seconds=codec).SerializeToString()
        return [*parts, header(_TIMING, len(timing)), timing]

    def _actions(self, asked: _Asked, envs: IntArray) -> list[BatchedValue]:
        groups, roster = self._episodes.groups, self._episodes.roster
        if asked.actions is not None:
            return [
                actions.check(
                    group,
                    values,
                    len(envs) * len(group.agents),
                    roster.to_act(number, envs),
                    f"groups[{number}].actions",
                )
                for number, (group, values) in enumerate(zip(groups, asked.actions, strict=True))
            ]
        sent = asked.request.step.groups
        if len(sent) != len(groups):
            raise InvalidAction(
                f"actions for {len(sent)} groups; this simulator has {len(groups)}",
                "groups",
            )
        return [
            actions.read(
                group, envs, roster.to_act(number, envs), message, f"groups[{number}].actions"
            )
            for number, (group, message) in enumerate(zip(groups, sent, strict=True))
        ]

    def _render(self, asked: _Asked) -> pb.Frames:
        if not self._render_mode:
            raise Unsupported(
                "this session was opened without a render_mode; open one with render_mode "
                f"{' or '.join(self.entry.sample.render_modes) or '(this simulator has none)'}",
                "render_mode",
            )
        frames = self._episodes.simulator.render(self._environments(asked))
        return pb.Frames(frames=[tensors.pack(np.asarray(frame, np.uint8)) for frame in frames])

    def _save_state(self, asked: _Asked) -> pb.States:
        self._can_save()
        envs = self._environments(asked)
        return pb.States(states=self._episodes.simulator.save_state(envs))

    def _load_state(self, asked: _Asked) -> list[Any]:
        self._can_save()
        envs = self._environments(asked)
        states = asked.request.load_state.states
        if len(states) != len(envs):
            raise InvalidArgument(
                f"{len(states)} states for {len(envs)} environments: send one for each",
                "states",
            )
        try:
            batch = self._episodes.load_state(envs, list(states))
        except ValueError as error:
            raise InvalidArgument(str(error), "states") from error
        return self._batch(envs, batch)

    def _can_save(self) -> None:
        if not self.entry.sample.can_save_state:
            raise Unsupported(f"simulator '{self.entry.name}' can not save its state")

    def _environments(self, asked: _Asked) -> IntArray:
        """Those that a request of a kind that names some is about."""
        if asked.plan is not None:
            return asked.plan.environments
        request = getattr(asked.request, asked.kind or "")
        if not request.HasField("environments"):
            return self._plans.whole.environments
        envs = describe.indices(request, "environments", self.num_envs, "environments")
        if not len(envs):
            raise InvalidArgument(
                "no environments named; leave the field out to mean all", "environments"
            )
        return envs

    def _batch(self, envs: IntArray, batch: Batch, plan: StepPlan | None = None) -> list[Any]:
        faults = []
        for env, error in batch.faults.items():
            self._account.fault()
            faults.append(pb.Fault(environment=env, error=self._wire_error(error)))
        return describe.batch_to_bytes(
            self._episodes.groups, self.entry.parameters, self.num_envs, envs, batch, faults, plan
        )

    def _error(self, sequence: int, error: Exception) -> pb.SimReply:
        if not isinstance(error, FarsimError):
            logger.exception("request %d failed", sequence, exc_info=error)
            error = _unexpected(error)
        return pb.SimReply(sequence=sequence, error=self._wire_error(error))

    def _wire_error(self, error: Exception) -> pb.Error:
        trace = "".join(traceback.format_exception(error)) if self._debug else ""
        return to_proto(error, trace)


def _offered(entry: Entry, request: pb.Open, mode: AutoresetMode) -> None:
    """Raises unless the simulator offers what ``request`` asks for."""
    sample = entry.sample
    if sample.own_autoreset is not None and mode is not sample.own_autoreset:
        raise Unsupported(
            f"simulator '{entry.name}' resets its environments by itself, in the mode "
            f"{sample.own_autoreset.name}; open the session with that",
            "autoreset_mode",
        )
    if request.render_mode and request.render_mode not in sample.render_modes:
        offered = ", ".join(sample.render_modes) or "none"
        raise Unsupported(
            f"simulator '{entry.name}' has no render mode '{request.render_mode}' (it has: "
            f"{offered})",
            "render_mode",
        )


def _unexpected(error: Exception) -> FarsimError:
    """An exception out of the simulator, or out of this package where nothing should raise."""
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = frames and "simserver" in frames[-1].filename and "sims" not in frames[-1].filename
    return InternalError(text) if ours else SimulatorFault(text)
