"""The unary call ``Act``: actions for observations, of which the server keeps nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import grpc

from agent.live import states
from agent.live.batching import Outcome
from agent.live.host import Host
from agent.live.inference import Answer, Decision, Query
from agent.live.policies import Policy
from farsim.errors import (
    Draining,
    FarsimError,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    SpaceMismatch,
    UnknownPolicy,
)
from farsim.v1 import policy_pb2 as pb

logger = logging.getLogger(__name__)

#: Trailing metadata with the serialised ``Error``.
ERROR_METADATA = "farsim-error-bin"
#: HTTP/2 peers refuse headers of more than 8 KiB.
_MAX_TEXT = 1000


class Acting:
    """Answers unary calls.

    Args:
        host: policies and bounds.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        #: What each recurrent policy's state looks like, as far as one has been seen.
        self._forms: dict[str, Any] = {}

    async def act(self, request: pb.ActRequest, context: grpc.aio.ServicerContext) -> pb.ActReply:
        """The method for gRPC."""
        try:
            return await self._act(request)
        except Exception as error:
            message = self._host.wire_error(error)
            message.message = message.message[:_MAX_TEXT]
            message.traceback = message.traceback[-_MAX_TEXT:]
            await context.abort(
                _status(error),
                message.message,
                ((ERROR_METADATA, message.SerializeToString()),),
            )
            raise

    async def _act(self, request: pb.ActRequest) -> pb.ActReply:
        arrived = time.perf_counter()
        host = self._host
        if host.is_draining:
            raise Draining("the server is about to stop; ask another one")
        policy = host.policies.named(request.policy)
        if request.digest and request.digest != policy.digest:
            raise SpaceMismatch(
                f"policy '{policy.name}' has other spaces than the client expects: its digest is "
                f"{policy.digest}. Describe says which spaces they are",
                "digest",
            )
        host.policies.check_version(request.policy_version, (policy,))
        queries = self._queries(policy, request)
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not answered.done():
                answered.set_result(outcome)

        host.batcher.submit(policy.name, request.policy_version, queries, done)
        outcome = await answered
        if isinstance(outcome, UnknownPolicy):
            raise UnknownPolicy(outcome.message, "policy_version")
        if isinstance(outcome, FarsimError):
            raise outcome
        reply = pb.ActReply(
            action=policy.write_actions([answer.action for answer in outcome]),
            policy_version=outcome[0].version,
        )
        if policy.spec.is_recurrent:
            self._forms.setdefault(policy.name, outcome[0].state)
            reply.state.extend(states.to_bytes(policy.name, answer.state) for answer in outcome)
        if reply.ByteSize() > host.limits.max_message_bytes:
            raise LimitExceeded(
                f"the reply has more than {host.limits.max_message_bytes} bytes; send fewer rows",
                "rows",
            )
        seconds = time.perf_counter() - arrived
        host.metrics.answered(policy.name, [seconds] * len(outcome))
        self._tell(policy, queries, outcome, seconds)
        return reply

    def _queries(self, policy: Policy, request: pb.ActRequest) -> list[Query]:
        rows = request.rows or 1
        if rows > self._host.limits.max_rows:
            raise LimitExceeded(
                f"a call has at most {self._host.limits.max_rows} rows, not {rows}", "rows"
            )
        observations = policy.observations(request.observation, rows, "observation")
        masks = policy.masks(request.action_masks, rows, "action_masks")
        memories = self._states(policy, request, rows)
        if request.sampling == pb.SAMPLING_UNSPECIFIED:
            greedy = self._host.greedy
        else:
            greedy = request.sampling == pb.SAMPLING_GREEDY
        return [
            Query(observation, mask, state, greedy, None)
            for observation, mask, state in zip(observations, masks, memories, strict=True)
        ]

    def _states(self, policy: Policy, request: pb.ActRequest, rows: int) -> list[Any]:
        if not request.state:
            return [None] * rows
        if not policy.spec.is_recurrent:
            raise InvalidArgument(f"policy '{policy.name}' has no memory; send no state", "state")
        if len(request.state) != rows:
            raise InvalidArgument(
                f"{len(request.state)} states for {rows} rows: send none, or one for each", "state"
            )
        memories = [
            states.from_bytes(policy.name, data) if data else None for data in request.state
        ]
        form = self._forms.get(policy.name)
        for state in memories:
            if state is not None and form is not None and not states.same_form(state, form):
                raise InvalidArgument(
                    f"this is no state of policy '{policy.name}': send back what ActReply.state "
                    "was",
                    "state",
                )
        return memories

    def _tell(
        self, policy: Policy, queries: list[Query], answers: Sequence[Answer], seconds: float
    ) -> None:
        if not self._host.sinks:
            return
        decisions = [
            Decision(
                agent="",
                policy=policy.name,
                observation=query.observation,
                action_masks=query.action_masks,
                answer=answer,
                action=answer.action,
                seconds=seconds,
            )
            for query, answer in zip(queries, answers, strict=True)
        ]
        for sink in self._host.sinks:
            try:
                sink.called(decisions)
            except Exception:
                logger.exception("%s failed in a call", type(sink).__name__)


def _status(error: Exception) -> grpc.StatusCode:
    if isinstance(error, UnknownPolicy):
        if error.subject == "policy_version":
            return grpc.StatusCode.FAILED_PRECONDITION
        return grpc.StatusCode.NOT_FOUND
    if isinstance(error, SpaceMismatch):
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, Draining):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(error, FarsimError) and not isinstance(error, InternalError):
        return grpc.StatusCode.INVALID_ARGUMENT
    return grpc.StatusCode.INTERNAL
