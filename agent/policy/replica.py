"""What Ray Serve runs several of: one process that answers single questions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from agent.live.acting import Acting
from agent.live.batching import Batcher, Outcome
from agent.live.host import Host
from agent.live.limits import Limits
from agent.live.metrics import Metrics
from agent.live.policies import Policies
from agent.policy.json_questions import JsonQuestions, deliver_here, unwrapped
from agent.policy.runtime import PolicyRuntime, Settings
from farsim import __version__
from farsim.errors import FarsimError, InvalidArgument
from farsim.protocol import POLICY_SERVICE, PROTOCOL_VERSION, compatible
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2


class PolicyReplica:
    """Answers over HTTP what ``http_endpoint`` does, and ``Describe`` and ``Act`` over gRPC.

    Args:
        settings: what to serve; each replica watches for itself.
        greedy: what a question that does not say gets.
        max_batch: observations in one forward pass.
        max_wait_seconds: how long one waits at most for others to join it.
    """

    def __init__(
        self, settings: Settings, greedy: bool, max_batch: int, max_wait_seconds: float
    ) -> None:
        self._runtime = PolicyRuntime(settings)
        self._runtime.start()
        self._loop: asyncio.AbstractEventLoop | None = None
        limits = Limits(max_batch=max_batch, max_wait_seconds=max_wait_seconds)
        metrics = Metrics()
        inference = self._runtime.inference
        policies = Policies(inference)
        batcher = Batcher(inference, self._deliver, max_batch, max_wait_seconds, metrics)
        # No modes: a live session stays with one process, and Ray Serve asks any of them.
        self._host = Host(policies, batcher, limits, metrics, modes=(), greedy=greedy)
        self._acting = Acting(self._host)
        self._questions = JsonQuestions(policies, batcher, greedy)

    async def __call__(self, request: Any) -> Any:
        """Answers a request over HTTP."""
        from starlette.responses import JSONResponse

        from agent.policy.http_endpoint import failure

        self._loop = asyncio.get_running_loop()
        try:
            if request.method == "GET":
                return JSONResponse(self._questions.describe())
            return JSONResponse(await self._answer(request))
        except FarsimError as error:
            status, document = failure(error)
            return JSONResponse(document, status_code=int(status))

    async def Describe(
        self, request: pb.DescribePoliciesRequest, grpc_context: Any
    ) -> pb.DescribePoliciesReply:
        """The method of ``farsim.v1.Policy``."""
        if request.protocol_version and not compatible(request.protocol_version):
            grpc_context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
            grpc_context.set_details(
                f"this server speaks version {PROTOCOL_VERSION} of farsim.v1, the client "
                f"'{request.protocol_version}': use releases whose major versions agree"
            )
            return pb.DescribePoliciesReply()
        return pb.DescribePoliciesReply(
            protocol_version=PROTOCOL_VERSION,
            server=f"farsim {__version__} (Python, Ray Serve)",
            policies=self._host.policies.describe(),
            limits=_told(self._host.limits),
            is_multi_agent=self._host.policies.is_multi_agent,
        )

    async def Act(self, request: pb.ActRequest, grpc_context: Any) -> pb.ActReply:
        """The method of ``farsim.v1.Policy``."""
        self._loop = asyncio.get_running_loop()
        try:
            return await self._acting.act(request, _Aborting(grpc_context))
        except _Aborted:
            # An exception would reach the client without its trailing metadata.
            return pb.ActReply()

    async def _answer(self, request: Any) -> Any:
        try:
            document = await request.json()
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"the body is no JSON: {error}") from error
        alone = not request.url.path.endswith("/act")
        question = self._questions.read(unwrapped(document) if alone else document)
        answer = await asyncio.wrap_future(self._questions.ask(question))
        reply = self._questions.write(question, answer)
        return reply["action"] if alone else reply

    def _deliver(self, outcomes: list[tuple[Callable[[Outcome], None], Outcome]]) -> None:
        # Somebody has asked, so there is one.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(deliver_here, outcomes)


class _Aborted(Exception):
    """The call is over, and its status is set."""


class _Aborting:
    """Ray Serve's context of a call, as far as it differs from gRPC's own."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def abort(
        self, code: grpc.StatusCode, details: str, metadata: Sequence[tuple[str, bytes]]
    ) -> None:
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(list(metadata))
        raise _Aborted


def _told(limits: Limits) -> simulator_pb2.Limits:
    """What clients are told of a replica: there are neither sessions nor episodes."""
    message = limits.to_proto()
    for name in ("max_sessions", "max_environments", "max_in_flight"):
        message.ClearField(name)
    return message


def add_unary(servicer: Any, server: Any) -> None:
    """Adds what a replica answers to Ray Serve's gRPC proxy, which imports this by name.

    ``Live`` is left out, so that a client is told UNIMPLEMENTED.
    """
    methods = {
        "Describe": grpc.unary_unary_rpc_method_handler(
            servicer.Describe,
            request_deserializer=pb.DescribePoliciesRequest.FromString,
            response_serializer=pb.DescribePoliciesReply.SerializeToString,
        ),
        "Act": grpc.unary_unary_rpc_method_handler(
            servicer.Act,
            request_deserializer=pb.ActRequest.FromString,
            response_serializer=pb.ActReply.SerializeToString,
        ),
    }
    handler = grpc.method_handlers_generic_handler(POLICY_SERVICE, methods)
    server.add_generic_rpc_handlers((handler,))
