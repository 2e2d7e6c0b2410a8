"""One client's environments on this server: requests in, replies out, each carried out once."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

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
from farsim.v1 import simulator_pb2 as pb
from simserver import actions
from simserver.catalogue import Entry
from simserver.episodes import Episodes
from simserver.limits import Limits
from simserver.metrics import Metrics
from simserver.simulator import Batch, IntArray

logger = logging.getLogger(__name__)

_MODES = {value: mode for mode, value in describe.AUTORESET_MODES.items()} | {
    pb.AUTORESET_MODE_UNSPECIFIED: AutoresetMode.NEXT_STEP
}
_MAX_HEARTBEAT_SECONDS = 60.0


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
        self._limits, self._metrics, self._debug = limits, metrics, debug
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
        request = pb.SimRequest.FromString(raw)
        sequence = request.sequence
        with self._lock:
            if self.stream is not stream:
                return None
            if sequence != self._next:
                return self._repeat(sequence, raw)
            self.busy = (sequence, time.monotonic())
            try:
                reply = self._carry_out(request)
            finally:
                self.busy = (0, 0.0)
            data = self._serialise(reply, request)
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

    def _serialise(self, reply: pb.SimReply, request: pb.SimRequest) -> bytes:
        data = reply.SerializeToString()
        bound = self._limits.max_message_bytes
        if len(data) <= bound:
            return data
        kind = request.WhichOneof("request")
        if kind in ("reset", "step", "load_state"):
            self._episodes.abandon(self._environments(getattr(request, kind)))
        error = LimitExceeded(
            f"the reply has {len(data)} bytes and a message at most {bound}: name fewer "
            "environments (those in this request need a reset now), or serve with a larger "
            "--max-message-bytes"
        )
        return self._error(reply.sequence, error).SerializeToString()

    def _carry_out(self, request: pb.SimRequest) -> pb.SimReply:
        kind = request.WhichOneof("request")
        try:
            if self.closed:
                raise ProtocolError("this session is closed; open another one")
            if self._draining():
                raise Draining("the server is about to stop; open a session on another one")
            reply = self._carry_out_kind(kind, request)
            reply.sequence = request.sequence
            return reply
        except Exception as error:
            return self._error(request.sequence, error)

    def _carry_out_kind(self, kind: str | None, request: pb.SimRequest) -> pb.SimReply:
        if kind == "step":
            return self._step(request.step)
        if kind == "reset":
            return pb.SimReply(batch=self._reset(request.reset))
        if kind == "open":
            if request.sequence != 1:
                raise ProtocolError(
                    "this session is open already; open another one on a new stream"
                )
            return pb.SimReply(opened=self._opened())
        if kind == "render":
            return pb.SimReply(frames=self._render(request.render))
        if kind == "save_state":
            return pb.SimReply(states=self._save_state(request.save_state))
        if kind == "load_state":
            return pb.SimReply(batch=self._load_state(request.load_state))
        if kind == "close":
            self._release()
            return pb.SimReply(closed=pb.Closed())
        if kind is None:
            raise ProtocolError("a request without content; set one of open, reset, step, ...")
        raise ProtocolError(f"'{kind}' is not for this point of a session")

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

    def _reset(self, request: pb.Reset) -> pb.Batch:
        envs = self._environments(request)
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

    def _step(self, request: pb.Step) -> pb.SimReply:
        envs = self._environments(request)
        started = time.perf_counter()
        groups = self._episodes.groups
        if len(request.groups) != len(groups):
            raise InvalidAction(
                f"actions for {len(request.groups)} groups; this simulator has {len(groups)}",
                "groups",
            )
        acting = self._episodes.roster.acting
        read = [
            actions.read(group, envs, acting[number], sent, f"groups[{number}].actions")
            for number, (group, sent) in enumerate(zip(groups, request.groups, strict=True))
        ]
        decoded = time.perf_counter()
        batch = self._episodes.step(envs, read)
        stepped = time.perf_counter()
        try:
            reply = self._batch(envs, batch)
        except FarsimError as error:
            # The environments have moved on, so this can be no error reply.
            logger.exception(
                "what simulator '%s' returned does not fit its spaces", self.entry.name
            )
            reply = self._batch(envs, self._episodes.fail(envs, error))
        simulator, codec = stepped - decoded, decoded - started + time.perf_counter() - stepped
        self._metrics.stepped(self.entry.name, len(envs), simulator, codec)
        timing = pb.Timing(simulator_seconds=simulator, codec_seconds=codec)
        return pb.SimReply(batch=reply, timing=timing)

    def _render(self, request: pb.Render) -> pb.Frames:
        if not self._render_mode:
            raise Unsupported(
                "this session was opened without a render_mode; open one with render_mode "
                f"{' or '.join(self.entry.sample.render_modes) or '(this simulator has none)'}",
                "render_mode",
            )
        frames = self._episodes.simulator.render(self._environments(request))
        return pb.Frames(frames=[tensors.pack(np.asarray(frame, np.uint8)) for frame in frames])

    def _save_state(self, request: pb.SaveState) -> pb.States:
        self._can_save()
        envs = self._environments(request)
        return pb.States(states=self._episodes.simulator.save_state(envs))

    def _load_state(self, request: pb.LoadState) -> pb.Batch:
        self._can_save()
        envs = self._environments(request)
        if len(request.states) != len(envs):
            raise InvalidArgument(
                f"{len(request.states)} states for {len(envs)} environments: send one for each",
                "states",
            )
        try:
            batch = self._episodes.load_state(envs, list(request.states))
        except ValueError as error:
            raise InvalidArgument(str(error), "states") from error
        return self._batch(envs, batch)

    def _can_save(self) -> None:
        if not self.entry.sample.can_save_state:
            raise Unsupported(f"simulator '{self.entry.name}' can not save its state")

    def _environments(self, request: Any) -> IntArray:
        envs = describe.indices(request, "environments", self.num_envs, "environments")
        if not len(envs):
            raise InvalidArgument(
                "no environments named; leave the field out to mean all", "environments"
            )
        return envs

    def _batch(self, envs: IntArray, batch: Batch) -> pb.Batch:
        faults = []
        for env, error in batch.faults.items():
            self._metrics.fault(self.entry.name)
            faults.append(pb.Fault(environment=env, error=self._wire_error(error)))
        return describe.batch_to_proto(
            self._episodes.groups, self.entry.parameters, self.num_envs, envs, batch, faults
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
