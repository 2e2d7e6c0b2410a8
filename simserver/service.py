"""The ``Simulator`` service: streams, and the sessions that they carry."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping

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
from simserver.stream import Call, GrpcStream, Stream

logger = logging.getLogger(__name__)

#: The exit code when a request exceeds ``Limits.max_step_seconds`` (EX_SOFTWARE).
HUNG_EXIT_CODE = 70
_SUPERSEDED = (grpc.StatusCode.ABORTED, "another stream has resumed this session")


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
        self._streams: set[Stream] = set()
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
        stream = GrpcStream()
        if not context.add_callback(lambda: self.leave(stream)):
            return
        self.enter(stream)
        threading.Thread(
            target=self.carry_out, args=(stream, requests), name="session", daemon=True
        ).start()
        yield from stream.messages(context, self._limits.heartbeat_seconds)

    def describe(self, request: pb.DescribeRequest) -> pb.DescribeReply:
        """Answers a call of ``Describe``.

        Raises:
            ProtocolVersionError: the client speaks another major version.
        """
        if request.protocol_version and not compatible(request.protocol_version):
            raise _version_error(request.protocol_version)
        return self.description

    def enter(self, stream: Stream) -> None:
        """A call of ``Run`` begins: it is told when the server stops, until ``leave``."""
        with self._lock:
            self._streams.add(stream)

    def carry_out(self, stream: Stream, requests: Iterable[bytes]) -> None:
        """Carries out the requests of one stream, in this thread, as they come, and ends it."""
        try:
            for raw in requests:
                stream.working = True
                reply = self._answer(stream, raw)
                if reply is None:
                    stream.end(*_SUPERSEDED)
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

    def leave(self, stream: Stream) -> None:
        """The call is over, whoever ended it: its session starts to run out its lease."""
        stream.end()
        with self._lock:
            self._streams.discard(stream)
            session = stream.session
            if session is not None and session.stream is stream:
                session.stream = None
                session.detached_at = time.monotonic()

    def drain(self, grace_seconds: float) -> None:
        """Finishes the requests being carried out, tells every client, and ends all streams."""
        self._draining = True
        notice = pb.SimReply(draining=pb.Draining(grace_seconds=grace_seconds)).SerializeToString()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.notify(notice)
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
        try:
            return self.describe(request)
        except ProtocolVersionError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message)
            raise  # Not reached: to abort is to raise.

    def _describe_all(self) -> pb.DescribeReply:
        return pb.DescribeReply(
            protocol_version=PROTOCOL_VERSION,
            server=f"farsim {__version__} (Python)",
            simulators=[simulator_to_proto(entry) for entry in list(self._entries.values())],
            limits=self._limits.to_proto(),
        )

    # -- requests -------------------------------------------------------------------------

    def _answer(self, stream: Stream, raw: bytes) -> bytes | None:
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

    def _open(self, stream: Stream, request: pb.SimRequest, raw: bytes) -> bytes | None:
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

    def _resume(self, stream: Stream, request: pb.Resume) -> bytes:
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
        if isinstance(superseded, Stream):
            superseded.end(*_SUPERSEDED)
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
