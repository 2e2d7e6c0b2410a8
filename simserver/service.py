"""The ``Simulator`` service: streams, and the sessions that they carry."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, Protocol

import grpc
from google.protobuf.message import DecodeError

from farsim import __version__
from farsim import options as option_values
from farsim.errors import (
    FarsimError,
    InvalidArgument,
    LimitExceeded,
    ProtocolError,
    ProtocolVersionError,
    SequenceError,
    SessionLost,
    SimulatorFault,
    UnknownSimulator,
    to_proto,
)
from farsim.protocol import PROTOCOL_VERSION, SERVICE, compatible
from farsim.v1 import simulator_pb2 as pb
from simserver.catalogue import Entry
from simserver.description import simulator_to_proto
from simserver.limits import Limits
from simserver.metrics import Metrics
from simserver.session import Session

logger = logging.getLogger(__name__)

#: A stream that has opened no session by then is ended.
_OPEN_WITHIN_SECONDS = 60.0
#: The exit code when a request exceeds ``Limits.max_step_seconds`` (EX_SOFTWARE).
HUNG_EXIT_CODE = 70


class Call(Protocol):
    """What the service needs of a call; ``grpc.ServicerContext`` has it."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls ``callback`` when the call is over; False if it is over already."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the call with a status, by an exception."""


class _Stream:
    """One call of ``Run``: what is to be sent, and how it ends."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.begun = time.monotonic()
        #: Whether a request has been received whose reply is not on its way yet.
        self.working = False
        #: When the open request being carried out began; None if none is.
        self.opening: float | None = None
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._status: tuple[grpc.StatusCode, str] | None = None
        self._ended = False

    def send(self, reply: bytes) -> None:
        self._outbox.put(reply)

    def end(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        """Ends the call after what has been sent, with OK or ``code``. Later calls do nothing."""
        if code is not None and self._status is None:
            self._status = (code, details)
        self._ended = True
        self._outbox.put(None)

    def wait_for_room(self, bound: int) -> None:
        """Blocks while ``bound`` replies wait for a client that does not read them."""
        while self._outbox.qsize() >= bound and not self._ended:
            time.sleep(0.01)

    def messages(self, context: Call, default_heartbeat: float) -> Iterator[bytes]:
        """What to send, until the end; sends heartbeats while a request is being carried out."""
        while True:
            session = self.session
            timeout = session.heartbeat_seconds if session else default_heartbeat
            try:
                item = self._outbox.get(timeout=timeout)
            except queue.Empty:
                heartbeat = self._heartbeat()
                if heartbeat is not None:
                    yield heartbeat
                elif session is None and time.monotonic() - self.begun > _OPEN_WITHIN_SECONDS:
                    context.abort(
                        grpc.StatusCode.DEADLINE_EXCEEDED, "no session was opened on this stream"
                    )
                continue
            if item is None:
                if self._status is not None:
                    context.abort(*self._status)
                return
            yield item

    def _heartbeat(self) -> bytes | None:
        sequence, since = (1, self.opening) if self.opening is not None else (0, 0.0)
        if self.session is not None:
            sequence, since = self.session.busy
        if not sequence:
            return None
        return pb.SimReply(
            sequence=sequence,
            heartbeat=pb.Heartbeat(elapsed_seconds=time.monotonic() - since),
        ).SerializeToString()


class SimulatorService:
    """Serves simulators; one instance for each server process.

    Args:
        entries: the simulators by name; more may be added meanwhile.
        limits: what clients may use together.
        metrics: where to count.
        debug: whether tracebacks cross the wire.
    """

    def __init__(
        self, entries: Mapping[str, Entry], limits: Limits, metrics: Metrics, debug: bool = False
    ) -> None:
        self._entries, self._limits, self._metrics = entries, limits, metrics
        self._debug = debug
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._reserved = 0
        self._reserved_sessions = 0
        self._streams: set[_Stream] = set()
        self._stopped = threading.Event()
        self._draining = False
        self._description = self._describe_all()
        threading.Thread(target=self._watch, name="leases", daemon=True).start()

    @property
    def description(self) -> pb.DescribeReply:
        """What ``Describe`` says; there may be more simulators than at the start."""
        if len(self._description.simulators) != len(self._entries):
            self._description = self._describe_all()
        return self._description

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for ``grpc.Server.add_generic_rpc_handlers``.

        ``Run`` goes without grpc's own (de)serialisers: a session needs the very bytes of a
        request to tell a repeated one, and keeps its replies serialised.
        """
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Describe": grpc.unary_unary_rpc_method_handler(
                    self._describe,
                    request_deserializer=pb.DescribeRequest.FromString,
                    response_serializer=pb.DescribeReply.SerializeToString,
                ),
                "Run": grpc.stream_stream_rpc_method_handler(self.run),
            },
        )

    def run(self, requests: Iterator[bytes], context: Call) -> Iterator[bytes]:
        """Carries out one stream: serialised requests in, serialised replies out.

        Args:
            requests: until the client ends its side, or a ``grpc.RpcError`` says that it is gone.
            context: the call that carries them.
        """
        stream = _Stream()
        if not context.add_callback(lambda: self._leave(stream)):
            return
        with self._lock:
            self._streams.add(stream)
        threading.Thread(
            target=self._read, args=(stream, requests), name="session", daemon=True
        ).start()
        yield from stream.messages(context, self._limits.heartbeat_seconds)

    def drain(self, grace_seconds: float) -> None:
        """Finishes the requests being carried out, tells every client, and ends all streams."""
        self._draining = True
        notice = pb.SimReply(draining=pb.Draining(grace_seconds=grace_seconds)).SerializeToString()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.send(notice)
        deadline = time.monotonic() + grace_seconds
        while any(stream.working for stream in streams) and time.monotonic() < deadline:
            time.sleep(0.02)
        for stream in streams:
            stream.end()
        self._stopped.set()

    # -- calls ----------------------------------------------------------------------------

    def _describe(
        self, request: pb.DescribeRequest, context: grpc.ServicerContext
    ) -> pb.DescribeReply:
        if request.protocol_version and not compatible(request.protocol_version):
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                _version_error(request.protocol_version).message,
            )
        return self.description

    def _describe_all(self) -> pb.DescribeReply:
        return pb.DescribeReply(
            protocol_version=PROTOCOL_VERSION,
            server=f"farsim {__version__} (Python)",
            simulators=[simulator_to_proto(entry) for entry in list(self._entries.values())],
            limits=self._limits.to_proto(),
        )

    def _read(self, stream: _Stream, requests: Iterator[bytes]) -> None:
        """Carries out the requests of one stream, in this thread, as they come."""
        try:
            for raw in requests:
                stream.working = True
                reply = self._answer(stream, raw)
                if reply is None:
                    break
                self._metrics.moved(len(raw), len(reply))
                closed = stream.session is not None and stream.session.closed
                if stream.session is not None and closed:
                    self._forget(stream.session)
                stream.send(reply)
                stream.working = False
                if closed:
                    break
                stream.wait_for_room(self._limits.max_in_flight)
            stream.end()
        except DecodeError:
            stream.end(grpc.StatusCode.INVALID_ARGUMENT, "these bytes are no farsim.v1.SimRequest")
        except grpc.RpcError:
            stream.end()  # The client has gone; its session waits for it to come back.
        except Exception:
            logger.exception("a stream failed")
            stream.end(grpc.StatusCode.INTERNAL, "the server failed; its log says why")
        finally:
            stream.working = False

    def _leave(self, stream: _Stream) -> None:
        """The call is over, whoever ended it: its session starts to run out its lease."""
        stream.end()
        with self._lock:
            self._streams.discard(stream)
            session = stream.session
            if session is not None and session.stream is stream:
                session.stream = None
                session.detached_at = time.monotonic()

    # -- requests -------------------------------------------------------------------------

    def _answer(self, stream: _Stream, raw: bytes) -> bytes | None:
        session = stream.session
        if session is not None:
            return session.answer(stream, raw)
        request = pb.SimRequest.FromString(raw)
        kind = request.WhichOneof("request")
        try:
            if kind == "open":
                return self._open(stream, request, raw)
            if kind == "resume":
                return self._resume(stream, request.resume)
            raise ProtocolError(
                f"the first request of a stream is 'open' or 'resume', not '{kind}'"
            )
        except FarsimError as error:
            return pb.SimReply(sequence=request.sequence, error=to_proto(error)).SerializeToString()

    def _open(self, stream: _Stream, request: pb.SimRequest, raw: bytes) -> bytes | None:
        if request.sequence != 1:
            raise SequenceError(f"'open' has sequence number 1, not {request.sequence}", "sequence")
        if not compatible(request.open.protocol_version):
            raise _version_error(request.open.protocol_version)
        entry = self._entry(request.open.simulator)
        count = request.open.num_environments
        self._reserve(entry, count)
        stream.opening = time.monotonic()
        try:
            session = Session(
                entry,
                request.open,
                self._limits,
                self._metrics,
                self._debug,
                lambda: self._draining,
            )
        except BaseException as error:
            self._release(entry, count)
            if isinstance(error, FarsimError):
                raise
            if isinstance(error, ValueError):
                raise InvalidArgument(f"simulator '{entry.name}': {error}", "options") from error
            logger.exception("simulator '%s' can not be made", entry.name)
            raise SimulatorFault(
                f"simulator '{entry.name}' can not be made: {type(error).__name__}: {error}"
            ) from error
        finally:
            stream.opening = None
        with self._lock:
            self._sessions[session.token] = session
            session.stream = stream
            stream.session = session
            if stream not in self._streams:  # The call ended meanwhile.
                session.stream, session.detached_at = None, time.monotonic()
                return None
        logger.info("opened a session of %d x %s", count, entry.name)
        return session.answer(stream, raw)

    def _resume(self, stream: _Stream, request: pb.Resume) -> bytes:
        if not compatible(request.protocol_version):
            raise _version_error(request.protocol_version)
        with self._lock:
            session = self._sessions.get(request.session_token)
            if session is None or session.closed or stream not in self._streams:
                raise SessionLost(
                    "no session has this token: it was closed, its lease ran out, or the server "
                    "was started anew. Open a new one; the episodes of the old one are truncated",
                    "session_token",
                )
            superseded = session.stream
            session.stream, session.detached_at = stream, None
            stream.session = session
        if isinstance(superseded, _Stream):
            superseded.end(grpc.StatusCode.ABORTED, "another stream has resumed this session")
        return pb.SimReply(
            resumed=pb.Resumed(last_sequence=session.last_sequence)
        ).SerializeToString()

    def _entry(self, name: str) -> Entry:
        if not name and len(self._entries) == 1:
            return next(iter(self._entries.values()))
        entry = self._entries.get(name)
        if entry is None:
            what = f"no simulator '{name}' here" if name else "name the simulator to open"
            raise UnknownSimulator(
                f"{what}{option_values.nearest(name, self._entries)}", "simulator"
            )
        return entry

    # -- accounts -------------------------------------------------------------------------

    def _reserve(self, entry: Entry, count: int) -> None:
        bound = entry.sample.max_environments
        if count < 1:
            raise InvalidArgument("a session has at least one environment", "num_environments")
        if bound and count > bound:
            raise LimitExceeded(
                f"a session of '{entry.name}' has at most {bound} environments, not {count}",
                "num_environments",
            )
        with self._lock:
            if self._reserved_sessions >= self._limits.max_sessions:
                raise LimitExceeded(
                    f"all {self._limits.max_sessions} sessions of this server are taken; use "
                    "another server, or serve with a larger --max-sessions"
                )
            free = self._limits.max_environments - self._reserved
            if count > free:
                raise LimitExceeded(
                    f"{count} environments asked for, {free} of {self._limits.max_environments} "
                    "free; use another server, or serve with a larger --max-environments",
                    "num_environments",
                )
            self._reserved += count
            self._reserved_sessions += 1
        self._metrics.sessions.labels(entry.name).inc()
        self._metrics.environments.labels(entry.name).inc(count)

    def _release(self, entry: Entry, count: int) -> None:
        with self._lock:
            self._reserved -= count
            self._reserved_sessions -= 1
        self._metrics.sessions.labels(entry.name).dec()
        self._metrics.environments.labels(entry.name).dec(count)

    def _forget(self, session: Session) -> None:
        with self._lock:
            known = self._sessions.pop(session.token, None)
        if known is not None:
            self._release(session.entry, session.num_envs)

    def _watch(self) -> None:
        """Frees sessions whose lease has run out, and ends the process if a request hangs."""
        while not self._stopped.wait(0.5):
            now = time.monotonic()
            with self._lock:
                sessions = list(self._sessions.values())
                # Taken out under the lock, so that none of them can be resumed meanwhile.
                expired = [session for session in sessions if session.has_expired(now)]
                for session in expired:
                    del self._sessions[session.token]
            for session in expired:
                logger.info("the lease of a session of %s ran out", session.entry.name)
                self._release(session.entry, session.num_envs)
                # A request may hang in there, and must not hold up the other leases.
                threading.Thread(target=session.close, daemon=True).start()
            bound = self._limits.max_step_seconds
            for session in sessions:
                sequence, since = session.busy
                if bound and sequence and now - since > bound:
                    logger.critical(
                        "request %d of a session of %s takes longer than %g s; exiting",
                        sequence,
                        session.entry.name,
                        bound,
                    )
                    os._exit(HUNG_EXIT_CODE)


def _version_error(version: str) -> ProtocolVersionError:
    return ProtocolVersionError(
        f"this server speaks version {PROTOCOL_VERSION} of farsim.v1, the client '{version}': "
        "use releases whose major versions agree",
        "protocol_version",
    )
