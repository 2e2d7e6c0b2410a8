"""Servers of policies that each break one promise of the contract, and keep all others.

Run as a program it serves them all, and writes a line with name and address of each into a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
from gymnasium.spaces import Box, Discrete

from agent.live import server as live_server
from agent.live.inference import Answer, PolicySpec, Query
from agent.live.limits import Limits
from agent.live.server import PolicyServer, PolicyServerOptions
from agent.live.service import PolicyService
from farsim import spaces
from farsim.channel import ConnectionOptions
from farsim.check import runner
from farsim.check.policy.subjects import subjects
from farsim.check.policy.suite import CHECKS
from farsim.check.verdicts import Outcome
from farsim.serving import stop_with_parent
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2, tensor_pb2
from tests.agent.live.linear import Linear

SEEN, ACTIONS = Box(-5.0, 5.0, (4,), np.float32), Discrete(3)
SPECS = (
    PolicySpec("masked", SEEN, ACTIONS, has_action_mask=True, agents=("walker",)),
    PolicySpec("memory", SEEN, Discrete(4), is_recurrent=True, agents=("first", "second")),
)
KEPT = [3, 4]


class Mischief:
    """What a server does wrong: here, nothing.

    Attributes:
        expected: the one check that must catch it.
        sentence: the beginning of what that check stands for.
    """

    expected: ClassVar[str]
    sentence: ClassVar[str]
    inference: ClassVar[type[Linear]] = Linear

    def described(self, reply: pb.DescribePoliciesReply) -> None:
        """Changes what the server says that it has."""

    def asked(self, request: pb.ActRequest) -> None:
        """Changes what ``Act`` understands."""

    def answered(self, request: pb.ActRequest, reply: pb.ActReply) -> None:
        """Changes what ``Act`` replies."""

    def refused(self, code: grpc.StatusCode) -> grpc.StatusCode:
        """Changes how ``Act`` ends."""
        return code

    def ended(self, code: grpc.StatusCode) -> grpc.StatusCode:
        """Changes how a live stream ends."""
        return code

    def event(self, event: pb.LiveEvent, mode: int) -> None:
        """Changes what a live session understands."""

    def reply(self, event: pb.LiveEvent | None, reply: pb.LiveReply, times: int) -> None:
        """Changes what a live client gets; ``times`` counts replies of that number."""


class Call:
    """gRPC's context of a call, with a mischief in its way."""

    def __init__(self, context: Any, mischief: Mischief) -> None:
        self._context, self._mischief = context, mischief
        self._events: dict[int, pb.LiveEvent] = {}
        self._times: dict[int, int] = {}
        self._mode = 0

    async def abort(self, code: grpc.StatusCode, details: str, *metadata: Any) -> None:
        # Calls of Act say more than a text.
        change = self._mischief.refused if metadata else self._mischief.ended
        await self._context.abort(change(code), details, *metadata)

    async def read(self) -> Any:
        raw = await self._context.read()
        try:
            event = pb.LiveEvent.FromString(raw)
        except Exception:
            return raw
        self._events.setdefault(event.sequence, pb.LiveEvent.FromString(raw))
        if event.HasField("hello"):
            self._mode = event.hello.mode
        before = event.SerializeToString()
        self._mischief.event(event, self._mode)
        after = event.SerializeToString()
        return raw if after == before else after

    async def write(self, raw: bytes) -> None:
        reply = pb.LiveReply.FromString(raw)
        number = reply.sequence
        self._times[number] = self._times.get(number, 0) + 1
        self._mischief.reply(self._events.get(number), reply, self._times[number])
        await self._context.write(reply.SerializeToString())


class Service(PolicyService):
    """The real service, with a mischief in its way."""

    def __init__(self, mischief: Mischief, *args: Any) -> None:
        super().__init__(*args)
        self.mischief = mischief

    async def _describe(self, request: Any, context: Any) -> pb.DescribePoliciesReply:
        reply = await super()._describe(request, context)
        self.mischief.described(reply)
        return reply

    async def _act(self, request: pb.ActRequest, context: Any) -> pb.ActReply:
        self.mischief.asked(request)
        reply = await super()._act(request, Call(context, self.mischief))
        self.mischief.answered(request, reply)
        return reply

    async def _live(self, request: object, context: Any) -> None:
        await super()._live(request, Call(context, self.mischief))


def moved(policy: str, actions: tensor_pb2.Value, rows: int) -> tensor_pb2.Value:
    """Other actions of the same policy."""
    (space,) = (spec.action_space for spec in SPECS if spec.name == policy)
    chosen = np.asarray(spaces.decode(space, actions.tensors, rows))
    return tensor_pb2.Value(tensors=spaces.encode(space, (chosen + 1) % space.n, rows))


# -- what is described ------------------------------------------------------------------------


class NewestFirst(Mischief):
    expected, sentence = "describe/versions", "Increasing; the last one is what is used."

    def described(self, reply: pb.DescribePoliciesReply) -> None:
        reply.policies[0].versions[:] = reversed(reply.policies[0].versions)


class NoDigest(Mischief):
    expected, sentence = "describe/digests", "Of the spaces and of `has_action_mask`"

    def described(self, reply: pb.DescribePoliciesReply) -> None:
        reply.policies[0].digest = ""


class AModeThatIsNone(Mischief):
    expected, sentence = "describe/modes", "Those that `Hello.mode` may name."

    def described(self, reply: pb.DescribePoliciesReply) -> None:
        reply.modes.append(pb.LIVE_MODE_UNSPECIFIED)


class TwoForOneAgent(Mischief):
    expected, sentence = "describe/agents", "The agents that this policy acts for."

    def described(self, reply: pb.DescribePoliciesReply) -> None:
        reply.policies[0].agents.append("second")


# -- Act --------------------------------------------------------------------------------------


class OtherActionsForTwo(Mischief):
    expected, sentence = "act/each row for itself", "Value observation = 3;"

    def answered(self, request: pb.ActRequest, reply: pb.ActReply) -> None:
        if request.rows == 2:
            reply.action.CopyFrom(moved(request.policy, reply.action, 2))


class OneVersionInName(Mischief):
    expected, sentence = "act/pinned versions", "Several while older ones are kept."

    def answered(self, request: pb.ActRequest, reply: pb.ActReply) -> None:
        reply.policy_version = KEPT[-1]


class StateOfOneRow(Mischief):
    expected, sentence = "act/state", "Of a recurrent policy: one for each row, opaque."

    def answered(self, request: pb.ActRequest, reply: pb.ActReply) -> None:
        del reply.state[1:]


class MasksIgnored(Mischief):
    expected, sentence = "act/masks", "Every observation comes with masks"

    def asked(self, request: pb.ActRequest) -> None:
        del request.action_masks[:]


class AnyDigest(Mischief):
    expected, sentence = "act errors/another digest", "A request that cannot be carried out ends"

    def asked(self, request: pb.ActRequest) -> None:
        request.digest = ""


class AnyVersion(Mischief):
    expected, sentence = "act errors/unknown version", "A request that cannot be carried out ends"

    def asked(self, request: pb.ActRequest) -> None:
        if request.policy_version not in KEPT:
            request.policy_version = 0


class AnotherStatus(Mischief):
    expected, sentence = "act errors/unknown policy", "A request that cannot be carried out ends"

    def refused(self, code: grpc.StatusCode) -> grpc.StatusCode:
        is_unknown = code is grpc.StatusCode.NOT_FOUND
        return grpc.StatusCode.INVALID_ARGUMENT if is_unknown else code


# -- sessions ---------------------------------------------------------------------------------


class ModeUnsaid(Mischief):
    expected, sentence = "session/mode", "In `Hello`: the same as SERVE."

    def reply(self, event: pb.LiveEvent | None, reply: pb.LiveReply, times: int) -> None:
        if reply.HasField("welcome") and event is not None and not event.hello.mode:
            reply.welcome.mode = pb.LIVE_MODE_UNSPECIFIED


class AnyVersionOfTheContract(Mischief):
    expected = "session/another major version"
    sentence = "Another major version gets ERROR_CODE_PROTOCOL_VERSION."

    def event(self, event: pb.LiveEvent, mode: int) -> None:
        if event.HasField("hello"):
            event.hello.protocol_version = "1.0"


class SpacesUnread(Mischief):
    expected = "session/other spaces"
    sentence = "Spaces that differ from the policy's get ERROR_CODE_SPACE_MISMATCH"

    def event(self, event: pb.LiveEvent, mode: int) -> None:
        if event.HasField("hello"):
            del event.hello.groups[:]


class DoneForFarewell(Mischief):
    expected, sentence = "session/farewell", "The server ends the stream itself with status OK"

    def reply(self, event: pb.LiveEvent | None, reply: pb.LiveReply, times: int) -> None:
        if reply.HasField("farewell"):
            reply.done.SetInParent()


class StrangeBytesAreNobodysFault(Mischief):
    expected, sentence = "session/no event", "The server ends the stream itself with status OK"

    def ended(self, code: grpc.StatusCode) -> grpc.StatusCode:
        is_strange = code is grpc.StatusCode.INVALID_ARGUMENT
        return grpc.StatusCode.UNKNOWN if is_strange else code


class AnsweredOnce(Mischief):
    expected, sentence = "sequence/a repeated event", "The server carries each number out once"

    def reply(self, event: pb.LiveEvent | None, reply: pb.LiveReply, times: int) -> None:
        if times > 1 and not reply.HasField("error"):
            error = simulator_pb2.Error(code=simulator_pb2.ERROR_CODE_SEQUENCE, message="again?")
            reply.error.CopyFrom(error)


class ForgetsTheLastNumber(Mischief):
    expected, sentence = "resume/goes on", "Goes on with a session whose stream has broken"

    def reply(self, event: pb.LiveEvent | None, reply: pb.LiveReply, times: int) -> None:
        if reply.HasField("resumed"):
            reply.resumed.last_sequence = 0


class FriendlyTakeOver(Mischief):
    expected, sentence = "resume/takes over", "ABORTED another stream has resumed this session"

    def ended(self, code: grpc.StatusCode) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE if code is grpc.StatusCode.ABORTED else code


# -- episodes ---------------------------------------------------------------------------------


class AnotherChoiceLive(Mischief):
    expected, sentence = "live/as Act", "The likeliest action."

    def reply(self, event: pb.LiveEvent | None, reply: pb.LiveReply, times: int) -> None:
        if event is None or any(agent.action_masks for agent in event.observe.agents):
            return
        for action in reply.actions.agents:
            action.action.CopyFrom(moved(action.policy, action.action, 1))


class OneMemory(Mischief):
    expected, sentence = "live/memory of each episode", "It remembers: within a live episode"

    class inference(Linear):
        last: Any = None, None

        def act(self, policy: str, queries: Sequence[Query], version: int = 0) -> Sequence[Answer]:
            for query in queries:
                owner, state = self.last
                known = query.episode is not None and query.state is not None
                if known and owner is not query.episode:
                    query.state = state
            answers = super().act(policy, queries, version)
            if policy == "memory" and queries[-1].episode is not None:
                self.last = queries[-1].episode, answers[-1].state
            return answers


class NobodyDecided(Mischief):
    expected, sentence = "live/who acts", "string agent = 1;"

    def reply(self, event: pb.LiveEvent | None, reply: pb.LiveReply, times: int) -> None:
        for action in reply.actions.agents:
            action.policy = ""


class AlwaysTheNewest(Mischief):
    expected, sentence = "live/a pinned version", "else pinned to this one."

    def event(self, event: pb.LiveEvent, mode: int) -> None:
        if event.hello.policy_version in KEPT:
            event.hello.policy_version = 0


class MasksIgnoredLive(Mischief):
    expected, sentence = "live/masks", "Every observation comes with masks"

    def event(self, event: pb.LiveEvent, mode: int) -> None:
        for agent in event.observe.agents:
            del agent.action_masks[:]


class AnswersTheLogged(Mischief):
    expected, sentence = "live/a logged action", "none is asked for."

    def event(self, event: pb.LiveEvent, mode: int) -> None:
        if mode == pb.LIVE_MODE_SERVE:
            for agent in event.observe.agents:
                agent.ClearField("logged_action")


class GoesOnWhenTruncated(Mischief):
    expected, sentence = "live/the last observation", "The agent's part in the episode ends"

    def event(self, event: pb.LiveEvent, mode: int) -> None:
        for agent in event.observe.agents:
            agent.truncated = False


class SomeOtherOrder(Mischief):
    expected, sentence = "live/agents in order", "In the order of the event"

    def reply(self, event: pb.LiveEvent | None, reply: pb.LiveReply, times: int) -> None:
        actions = list(reply.actions.agents)
        if len(actions) > 1:
            del reply.actions.agents[:]
            reply.actions.agents.extend(sorted(actions, key=lambda action: action.agent))


class AnAgentTwice(Mischief):
    expected, sentence = "live errors/an agent twice", "Each agent at most once."

    def event(self, event: pb.LiveEvent, mode: int) -> None:
        names = [agent.agent for agent in event.observe.agents]
        if len(set(names)) < len(names):
            del event.observe.agents[1:]


class ShadowWithoutActions(Mischief):
    expected = "shadow/an action has to be said"
    sentence = "every observation that an agent acts on carries `logged_action`."

    def event(self, event: pb.LiveEvent, mode: int) -> None:
        if mode == pb.LIVE_MODE_SHADOW:
            for agent in event.observe.agents:
                if not agent.HasField("logged_action"):
                    encoded = spaces.encode(ACTIONS, np.zeros(1, np.int64), 1)
                    agent.logged_action.CopyFrom(tensor_pb2.Value(tensors=encoded))


MISCHIEF: dict[str, type[Mischief]] = {found.__name__: found for found in Mischief.__subclasses__()}


def look(address: str) -> list[Outcome]:
    """What the kit says of a server."""
    return runner.run(subjects(address, ConnectionOptions()), CHECKS)


def serve(mischief: type[Mischief]) -> PolicyServer:
    """A server of that kind, on a free port."""
    live_server.PolicyService = partial(Service, mischief())  # type: ignore[misc, assignment]
    options = PolicyServerOptions(limits=Limits(max_session_episodes=8, max_wait_seconds=0.0))
    server = PolicyServer(mischief.inference(SPECS, list(KEPT)), options=options)
    server.start()
    return server


def main(file: str, parent: str) -> None:
    kinds = {"Mischief": Mischief, **MISCHIEF}
    servers = {name: serve(found) for name, found in kinds.items()}
    lines = "".join(f"{name} {server.address}\n" for name, server in servers.items())
    partial_file = Path(f"{file}.partial")
    partial_file.write_text(lines)
    os.replace(partial_file, file)
    last = list(servers.values())[-1]
    stop_with_parent(int(parent), last.stop)
    last.run_until_stopped()


if __name__ == "__main__":
    main(*sys.argv[1:])
