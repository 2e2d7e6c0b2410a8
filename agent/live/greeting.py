"""Before there is a policy: simulators are let in, and the first one says what it sees and does."""

from __future__ import annotations

import logging
import secrets
import threading
from typing import Any

import grpc

from agent.description import Group
from agent.live.greeted import Greeted
from agent.live.inference import PolicySpec
from agent.live.limits import Limits
from agent.live.metrics import Metrics
from agent.live.policies import SINGLE_AGENT, Policy
from agent.live.server import PolicyServer, PolicyServerOptions
from agent.live.streams import Stream
from farsim import __version__
from farsim.errors import (
    FarsimError,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    ProtocolError,
    ProtocolVersionError,
    SessionLost,
    UnknownPolicy,
    to_proto,
)
from farsim.protocol import POLICY_SERVICE, PROTOCOL_VERSION, compatible
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2

logger = logging.getLogger(__name__)


class GreetingService:
    """The ``Policy`` service of a learner that waits to hear what there is to be learned.

    ``hello`` opens a session at once. Of the other events none is answered: a client repeats
    them when it resumes the session at the server that has the policies then.

    Args:
        limits: what clients may use.
        modes: those that sessions may have.
    """

    def __init__(self, limits: Limits, modes: tuple[pb.LiveMode, ...]) -> None:
        self.groups: tuple[Group, ...] = ()
        self.has_groups = threading.Event()
        self.greeted: dict[str, Greeted] = {}
        self._limits, self._modes = limits, modes
        self._policies: dict[str, Policy] = {}
        self._streams: dict[Stream, str] = {}

    @property
    def counts(self) -> dict[str, int]:
        """What is open now: sessions, episodes, streams."""
        return {"sessions": len(self.greeted), "episodes": 0, "streams": len(self._streams)}

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for ``grpc.aio.Server.add_generic_rpc_handlers``."""
        return grpc.method_handlers_generic_handler(
            POLICY_SERVICE,
            {
                "Describe": grpc.unary_unary_rpc_method_handler(
                    self._describe,
                    request_deserializer=pb.DescribePoliciesRequest.FromString,
                    response_serializer=pb.DescribePoliciesReply.SerializeToString,
                ),
                "Act": grpc.unary_unary_rpc_method_handler(self._act),
                "Live": grpc.stream_stream_rpc_method_handler(self._live),
            },
        )

    async def drain(self, grace_seconds: float) -> None:
        """Breaks all streams, so that clients resume their sessions elsewhere."""
        for stream in list(self._streams):
            stream.end(grpc.StatusCode.UNAVAILABLE, "the policies are ready: resume the session")

    # -- calls ----------------------------------------------------------------------------

    async def _describe(
        self, request: pb.DescribePoliciesRequest, context: grpc.aio.ServicerContext
    ) -> pb.DescribePoliciesReply:
        return pb.DescribePoliciesReply(
            protocol_version=PROTOCOL_VERSION,
            server=f"farsim {__version__} (Python)",
            modes=self._modes,
            limits=self._limits.to_proto(),
        )

    async def _act(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "there is no policy yet; ask again")
        return b""

    async def _live(self, _: object, context: grpc.aio.ServicerContext) -> None:
        stream = Stream(context, self._limits.max_in_flight)
        self._streams[stream] = ""
        try:
            await stream.run(self._take)
        finally:
            del self._streams[stream]

    # -- events ---------------------------------------------------------------------------

    def _take(self, stream: Stream, raw: bytes) -> None:
        event = pb.LiveEvent.FromString(raw)
        token = self._streams[stream]
        kind = event.WhichOneof("event")
        if token and kind != "goodbye":
            return
        try:
            if token:
                del self.greeted[token]
                reply = pb.LiveReply(farewell=pb.Farewell())
            elif kind == "hello" and event.sequence == 1:
                reply = pb.LiveReply(welcome=self._welcome(stream, event.hello, raw))
            elif kind == "resume":
                reply = pb.LiveReply(resumed=self._resume(stream, event.resume))
            else:
                raise ProtocolError("a stream begins with 'hello', as event 1, or 'resume'")
        except Exception as error:
            if not isinstance(error, FarsimError):
                logger.exception("a greeting failed")
                error = InternalError(f"{type(error).__name__}: {error}")
            reply = pb.LiveReply(error=to_proto(error))
        reply.sequence = event.sequence
        stream.send(reply.SerializeToString())

    def _welcome(self, stream: Stream, hello: pb.Hello, raw: bytes) -> pb.Welcome:
        _check_version(hello.protocol_version)
        if len(self.greeted) >= self._limits.max_sessions:
            raise LimitExceeded(f"all {self._limits.max_sessions} sessions are taken")
        if not hello.groups:
            raise InvalidArgument(
                "the learner does not know yet what simulators see and do: give the spaces to the "
                "client, or start 'farsim train --live' with a simulator's name or --spaces",
                "groups",
            )
        if self.has_groups.is_set():
            self._check(hello)
        else:
            self._learn(hello)
        token = secrets.token_urlsafe(24)
        self._streams[stream] = token
        self.greeted[token] = Greeted(token, raw)
        logger.info("'%s' waits for its policy", hello.client[:200])
        limits = self._limits
        lease = min(hello.lease_seconds or limits.lease_seconds, limits.lease_seconds)
        return pb.Welcome(
            session_token=token,
            mode=hello.mode or pb.LIVE_MODE_SERVE,
            lease_seconds=lease,
            idle_seconds=limits.idle_seconds,
            max_in_flight=limits.max_in_flight,
            max_episodes=limits.max_session_episodes,
            policy_version=1,
        )

    def _learn(self, hello: pb.Hello) -> None:
        """Takes the first simulator's agents and spaces for those of all."""
        policies: dict[str, Policy] = {}
        groups = []
        for message in hello.groups:
            group = Group.from_proto(_named(message))
            groups.append(group)
            spec = PolicySpec(
                group.name or SINGLE_AGENT,
                group.observation_space,
                group.action_space,
                group.has_action_mask,
            )
            for agent in group.agents:
                if agent in policies:
                    raise InvalidArgument(f"agent '{agent}' is named twice", "groups")
                policies[agent] = Policy(spec)
        self._policies, self.groups = policies, tuple(groups)
        self.has_groups.set()

    def _check(self, hello: pb.Hello) -> None:
        """Raises ``SpaceMismatch`` for a simulator unlike the first one."""
        for message in map(_named, hello.groups):
            for agent in message.agents:
                policy = self._policies.get(agent)
                if policy is None:
                    known = ", ".join(f"'{name}'" for name in self._policies)
                    raise UnknownPolicy(
                        f"agent '{agent}' is not among those of the first simulator: {known}",
                        "groups",
                    )
                policy.check_group(message)

    def _resume(self, stream: Stream, request: pb.ResumeLive) -> simulator_pb2.Resumed:
        _check_version(request.protocol_version)
        if request.session_token not in self.greeted:
            raise SessionLost("no session has this token; open a new one", "session_token")
        for other, token in list(self._streams.items()):
            if token == request.session_token:
                other.end(grpc.StatusCode.ABORTED, "another stream has resumed this session")
        self._streams[stream] = request.session_token
        return simulator_pb2.Resumed(last_sequence=1)


class GreetingServer(PolicyServer):
    """Serves ``GreetingService`` until there are policies; used as ``PolicyServer``.

    Args:
        address: ``host:port``; port 0 takes a free one.
        options: how, as the policies will be served.
    """

    _service: Any

    def __init__(self, address: str, options: PolicyServerOptions) -> None:
        super().__init__(None, address, options)  # type: ignore[arg-type]

    def _make_service(self, options: PolicyServerOptions, metrics: Metrics) -> Any:
        return GreetingService(options.limits, options.modes)

    def wait(self, seconds: float) -> bool:
        """Whether a simulator has come, after waiting for it so long."""
        service: GreetingService = self._service
        return service.has_groups.wait(seconds)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The agents and spaces of the first simulator; none before it has come."""
        service: GreetingService = self._service
        return service.groups

    @property
    def greeted(self) -> tuple[Greeted, ...]:
        """The sessions that wait for their policy; final once the server is closed."""
        service: GreetingService = self._service
        return tuple(service.greeted.values())


def _named(group: simulator_pb2.Group) -> simulator_pb2.Group:
    """With the only agent's name, where none is said."""
    if group.agents:
        return group
    named = simulator_pb2.Group()
    named.CopyFrom(group)
    named.agents.append(SINGLE_AGENT)
    return named


def _check_version(version: str) -> None:
    if not compatible(version):
        raise ProtocolVersionError(
            f"this server speaks version {PROTOCOL_VERSION} of farsim.v1, the client '{version}'",
            "protocol_version",
        )
