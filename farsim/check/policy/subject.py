"""The server under test, one policy of it, and what several checks need."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import grpc
import gymnasium as gym
import numpy as np

from farsim import spaces, tensors
from farsim.channel import ConnectionOptions, open_channel
from farsim.check import samples
from farsim.check.policy.session import LiveSession
from farsim.check.policy.stream import LiveStream, told
from farsim.check.stream import StreamEnded, code_name
from farsim.check.verdicts import Blocked, Broken, NotExercised, NotOffered
from farsim.errors import FarsimError, InvalidAction
from farsim.protocol import PROTOCOL_VERSION
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc, simulator_pb2, tensor_pb2

#: Trailing metadata of a call with the serialised ``Error``.
ERROR_METADATA = "farsim-error-bin"
#: How long sessions are to outlive a broken stream, s; they are closed in any case.
LEASE_SECONDS = 30.0
#: Two forward passes of the same numbers in batches of other sizes differ by rounding.
TOLERANCE = 1e-4
#: What an agent is called that may have any name.
ANY_AGENT = "agent-of-the-check"
_SEED = 23

Tensors = Sequence[tensor_pb2.Tensor]


class PolicySubject:
    """A policy on a server.

    Args:
        address: of the server.
        connection: how to reach it.
        description: what the server says it has.
        policy: the one to look at.
        seconds: for each check.
    """

    def __init__(
        self,
        address: str,
        connection: ConnectionOptions,
        description: pb.DescribePoliciesReply,
        policy: pb.PolicyDescription,
        seconds: float = 20.0,
    ) -> None:
        self.address, self.connection, self.seconds = address, connection, seconds
        self.server, self.policy = description, policy
        self._deadline = time.monotonic() + seconds
        self._channels: list[grpc.Channel] = []
        self._streams: list[LiveStream] = []
        self._sessions: list[LiveSession] = []

    @property
    def name(self) -> str:
        return self.policy.name

    # -- one check ------------------------------------------------------------------------

    def begin(self) -> None:
        """A check starts: its time runs from here."""
        self._deadline = time.monotonic() + self.seconds

    def end(self) -> None:
        """The check is over: all that it has opened is closed."""
        for session in self._sessions:
            session.close()
        for stream in self._streams:
            stream.cut()
        for channel in self._channels:
            channel.close()
        self._sessions, self._streams, self._channels = [], [], []

    def seconds_left(self) -> float:
        """Until the check is given up."""
        return self._deadline - time.monotonic()

    def close(self) -> None:
        """All checks are over; if there are more later, they connect anew."""
        if "shared_channel" in self.__dict__:
            self.shared_channel.close()
            del self.shared_channel

    @cached_property
    def shared_channel(self) -> grpc.Channel:
        """The connection of all who need none of their own."""
        return open_channel(self.address, self.connection)

    @property
    def stub(self) -> Any:
        return policy_pb2_grpc.PolicyStub(self.shared_channel)

    def channel(self, **options: Any) -> grpc.Channel:
        """A connection of its own, with some options changed."""
        channel = open_channel(self.address, replace(self.connection, **options))
        self._channels.append(channel)
        return channel

    def describe(self, version: str = "") -> pb.DescribePoliciesReply:
        """What the server says it has.

        Raises:
            Blocked: it does not say.
        """
        request = pb.DescribePoliciesRequest(protocol_version=version)
        try:
            return self.stub.Describe(request, timeout=self.seconds_left())
        except grpc.RpcError as error:
            raise Blocked(f"Describe got {error.code().name}: {error.details()}") from error

    # -- values ---------------------------------------------------------------------------

    @cached_property
    def observation_space(self) -> gym.Space[Any]:
        return self._space(self.policy.observation_space)

    @cached_property
    def action_space(self) -> gym.Space[Any]:
        return self._space(self.policy.action_space)

    def observations(self, count: int) -> list[tensor_pb2.Value]:
        """So many different observations, the same ones in every check."""
        space = self.observation_space
        space.seed(_SEED)
        return [self.batch([space.sample()]) for _ in range(count)]

    def batch(self, values: Sequence[Any]) -> tensor_pb2.Value:
        """A batch of observations."""
        space = self.observation_space
        return tensor_pb2.Value(
            tensors=spaces.encode(space, spaces.batch(space, values), len(values))
        )

    def rows(self, count: int) -> tensor_pb2.Value:
        """The batch of the first ``count`` of ``observations``."""
        space = self.observation_space
        space.seed(_SEED)
        return self.batch([space.sample() for _ in range(count)])

    def action(self) -> tensor_pb2.Value:
        """An action that the space has."""
        space = self.action_space
        space.seed(_SEED)
        batch = spaces.batch(space, [space.sample()])
        return tensor_pb2.Value(tensors=spaces.encode(space, batch, 1))

    def one_allowed(self, choice: int) -> list[tensor_pb2.Tensor]:
        """Masks of one row, each with one action allowed in every part: the ``choice``-th.

        Raises:
            NotOffered: the policy has no masks.
        """
        if not self.policy.has_action_mask:
            raise NotOffered("has_action_mask is false")
        masks = []
        for leaf in _masked_leaves(self.action_space):
            widths = (
                [int(leaf.n)] if isinstance(leaf, gym.spaces.Discrete) else leaf.nvec.reshape(-1)
            )
            parts = [np.arange(width) == choice % width for width in widths]
            masks.append(tensors.pack(np.concatenate(parts)[None]))
        return masks

    def only(self, masks: Tensors) -> Any:
        """The batch of the one action that ``one_allowed`` allows.

        Raises:
            NotExercised: parts of an action are not masked, so that there are others.
        """
        space = self.action_space
        if not isinstance(space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
            raise NotExercised("masks are about parts of an action alone")
        rows = iter([tensors.unpack(mask)[0] for mask in masks])
        return spaces.batch(space, [samples.allowed(space, rows)])

    def read(self, value: tensor_pb2.Value, count: int, sent: str) -> Any:
        """The actions of a reply.

        Raises:
            Broken: they are not ``count`` members of the action space.
        """
        expected = f"{count} of the policy's actions"
        try:
            actions = spaces.decode(self.action_space, value.tensors, count)
            spaces.check(self.action_space, actions, count, InvalidAction, "action")
        except FarsimError as error:
            raise Broken(sent, expected, str(error)) from error
        return actions

    def agent(self, observation: tensor_pb2.Value | None = None, **fields: Any) -> Any:
        """What the policy's agent sees."""
        return pb.AgentObservation(agent=self.agent_name, observation=observation, **fields)

    @property
    def agent_name(self) -> str:
        if self.policy.agents:
            return self.policy.agents[0]
        return ANY_AGENT if self.server.is_multi_agent else ""

    # -- calls ----------------------------------------------------------------------------

    def act(self, observation: tensor_pb2.Value, **fields: Any) -> pb.ActReply:
        """What ``Act`` answers; the likeliest actions unless ``fields`` say otherwise.

        Raises:
            Blocked: nothing.
        """
        chosen: dict[str, Any] = {"policy": self.name, "sampling": pb.SAMPLING_GREEDY} | fields
        request = pb.ActRequest(observation=observation, **chosen)
        try:
            return self.stub.Act(request, timeout=self.seconds_left())
        except grpc.RpcError as error:
            raise Blocked(f"Act got {error.code().name}: {error.details()}") from error

    def not_acted(
        self, request: pb.ActRequest, status: grpc.StatusCode, codes: Iterable[int], sent: str
    ) -> None:
        """Raises ``Broken`` unless ``Act`` ends with this status, and one of these codes."""
        expected = list(codes)
        names = " or ".join(code_name(code) for code in expected)
        what = f"{status.name} with {names} in {ERROR_METADATA}, and a message"
        try:
            self.stub.Act(request, timeout=self.seconds_left())
        except grpc.RpcError as error:
            found = dict(error.trailing_metadata() or ()).get(ERROR_METADATA)
            message = simulator_pb2.Error.FromString(found) if isinstance(found, bytes) else None
            came = f"{error.code().name} {error.details()!r} with " + (
                code_name(message.code) if message else f"no {ERROR_METADATA}"
            )
            is_right = error.code() is status and message and message.code in expected
            if not is_right or not error.details():
                raise Broken(sent, what, came) from error
            return
        raise Broken(sent, what, "a reply")

    # -- sessions -------------------------------------------------------------------------

    def offers(self, mode: int) -> None:
        """Raises ``NotOffered`` unless live sessions may have this mode."""
        if mode not in self.server.modes:
            raise NotOffered(f"{pb.LiveMode.Name(mode)} is not among modes")

    def stream(self, channel: grpc.Channel | None = None) -> LiveStream:
        """A new call of ``Live``.

        Raises:
            NotOffered: there is no such.
        """
        if not self.server.modes:
            raise NotOffered("modes is empty: no Live here")
        stream = LiveStream(channel or self.shared_channel, self.seconds_left())
        self._streams.append(stream)
        return stream

    def hello(self, **fields: Any) -> pb.LiveEvent:
        """The event that opens a session; ``fields`` change it."""
        modes = self.server.modes
        serve = pb.LIVE_MODE_SERVE
        chosen: dict[str, Any] = {
            "protocol_version": PROTOCOL_VERSION,
            "mode": serve if serve in modes else modes[0],
            "client": "farsim check",
            "sampling": pb.SAMPLING_GREEDY,
            "lease_seconds": LEASE_SECONDS,
        }
        return pb.LiveEvent(sequence=1, hello=pb.Hello(**(chosen | fields)))

    def session(self, **fields: Any) -> LiveSession:
        """A session.

        Raises:
            NotOffered: there is no such.
            Blocked: the server does not open it.
        """
        stream = self.stream()
        stream.send(self.hello(**fields))
        try:
            reply = stream.receive()[1]
        except StreamEnded as ended:
            raise Blocked(f"to 'hello' came {ended}") from ended
        if not reply.HasField("welcome"):
            raise Blocked(f"'hello' got {told(reply)}")
        session = LiveSession(stream, reply.welcome)
        self._sessions.append(session)
        return session

    def serving(self, **fields: Any) -> LiveSession:
        """A session with mode SERVE, whose episode 1 has started."""
        self.offers(pb.LIVE_MODE_SERVE)
        session = self.session(mode=pb.LIVE_MODE_SERVE, **fields)
        session.start(1)
        return session

    @staticmethod
    def resuming(token: str) -> pb.LiveEvent:
        """The event that resumes a session."""
        resume = pb.ResumeLive(session_token=token, protocol_version=PROTOCOL_VERSION)
        return pb.LiveEvent(resume=resume)

    def _space(self, message: Any) -> gym.Space[Any]:
        try:
            return spaces.from_proto(message)
        except FarsimError as error:
            raise Blocked(f"a space of '{self.name}' can not be read: {error}") from error


def alike(one: Any, other: Any) -> bool:
    """Whether two batches of actions are the same, but for rounding."""
    if isinstance(one, dict):
        return all(alike(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return all(map(alike, one, other))
    if isinstance(one, np.ndarray) and one.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE))
    return bool(np.array_equal(one, other))


def _masked_leaves(space: gym.Space[Any]) -> list[Any]:
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        members = spaces.members(space).values()
        return [leaf for member in members for leaf in _masked_leaves(member)]
    masked = isinstance(space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete))
    return [space] if masked else []
