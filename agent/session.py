"""One client's environments on one server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agent.actions import write_actions
from agent.batch import Batch, BatchedValue, IntArray
from agent.connection import connection_to
from agent.description import (
    AUTORESET_FROM_PROTO,
    AUTORESET_TO_PROTO,
    Group,
    SimulatorDescription,
    ask,
    decode_one,
    describe,
)
from agent.options import Each, options_to_proto
from agent.reply import Reply
from agent.stream import Request, RequestStream
from farsim import tensors
from farsim.channel import ConnectionOptions
from farsim.errors import (
    FarsimError,
    InvalidAction,
    InvalidArgument,
    ProtocolError,
)
from farsim.protocol import PROTOCOL_VERSION
from farsim.steps import StepPlan, StepPlans
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

__all__ = ["Each", "Pending", "Session", "describe"]


class Pending(NamedTuple):
    """A request on its way; ``Session.receive`` waits for its reply.

    Attributes:
        environments: int64, what it is about.
        request: as the stream knows it.
        kind: the kind of reply due.
        plan: of a step, how it and its reply are written; None for as protobuf does it.
    """

    environments: IntArray
    request: Request
    kind: str
    plan: StepPlan | None = None


class Session:
    """A fixed number of environments of one simulator on one server, leased to this client.

    Requests can be sent to many sessions, and several to one, before any is waited for::

        pending = [session.send_step(actions) for session in sessions]
        batches = [session.receive(p) for session, p in zip(sessions, pending)]

    A stream that breaks is resumed, and every request is carried out once all the same. When a
    request's deadline passes or the session cannot be resumed, the session is of no further use:
    ``failure`` says why, and every later call raises it again.

    Made by ``Session.open``, used by one thread at a time, in the process that opened it. A
    context manager; a session that is forgotten is closed as well.

    Attributes:
        address: of the server.
        groups: the agents and their spaces.
        num_envs: how many environments.
        options: every parameter's value that holds.
        description: what the server says of the simulator.
        autoreset_mode: what happens when an episode is over.
        max_episode_steps: after how many steps an episode is truncated at the latest; 0 for no
            known bound.
        max_in_flight: how many requests may be without a reply, before sending another one waits
            for the first's; 0 for any number.
    """

    def __init__(
        self,
        stream: RequestStream,
        description: SimulatorDescription,
        num_envs: int,
        opened: pb.Opened,
    ) -> None:
        self.address = stream.address
        self.description = description
        self.num_envs = num_envs
        self.groups = tuple(Group.from_proto(group) for group in opened.groups)
        self.options = {
            name: decode_one(description.parameters[name].space, value)
            for name, value in opened.options.values.items()
            if name in description.parameters
        }
        self.autoreset_mode = AUTORESET_FROM_PROTO.get(
            opened.autoreset_mode, AutoresetMode.NEXT_STEP
        )
        self.max_episode_steps = opened.max_episode_steps
        self.max_in_flight = opened.max_in_flight
        self._stream = stream
        self._plans = StepPlans(self.groups, num_envs)

    @classmethod
    def open(
        cls,
        address: str,
        simulator: str = "",
        num_envs: int = 1,
        options: Mapping[str, Any] | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        connection: ConnectionOptions | Mapping[str, Any] | None = None,
        fleet: str = "",
    ) -> Session:
        """Opens a session.

        Args:
            address: ``host:port``.
            simulator: a name on offer there; may be empty if there is just one.
            num_envs: how many environments.
            options: values of the simulator's parameters; the others have their defaults.
            autoreset_mode: what happens when an episode is over.
            render_mode: "rgb_array" if ``render`` will be used.
            connection: how to connect, and how patient to be.
            fleet: as at ``Wish``.

        Raises:
            ServerUnavailable: nobody answers there within ``connect_seconds``.
            DeadlineExceeded: the environments were not made within ``request_seconds``.
            UnknownOption, InvalidOption: of ``options``; says what is allowed.
            FarsimError: what the server answered.
        """
        how = ConnectionOptions.of(connection)
        if num_envs < 1:
            raise InvalidArgument(f"a session has at least one environment, not {num_envs}")
        stream = RequestStream(address, how, fleet)
        link = connection_to(address, how, fleet)
        try:
            described = ask(link.describe, address, how)
            description = _choose(described, simulator)
            request = pb.Open(
                protocol_version=PROTOCOL_VERSION,
                simulator=simulator,
                num_environments=num_envs,
                autoreset_mode=AUTORESET_TO_PROTO[autoreset_mode],
                lease_seconds=how.lease_seconds,
                heartbeat_seconds=how.heartbeat_seconds,
                render_mode=render_mode or "",
            )
            if options and description is not None:
                request.options.CopyFrom(options_to_proto(description, options, None))
            opened = stream.open(link, request)
            if description is None:
                raise ProtocolError(
                    f"{address} opened a simulator '{simulator}' that it does not describe", address
                )
            return cls(stream, description, num_envs, opened)
        except BaseException:
            stream.close()
            link.hang_up(farewell=False)
            raise

    @property
    def failure(self) -> FarsimError | None:
        """Why the session is of no further use; None as long as it is."""
        return self._stream.failure

    # -- asynchronous ---------------------------------------------------------------------

    def send_reset(
        self,
        envs: Sequence[int] | IntArray | None = None,
        seeds: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> Pending:
        """Starts new episodes.

        Args:
            envs: which environments, increasing; None for all.
            seeds: one for each of them; None goes on with each one's own random stream.
            options: values of per-episode parameters, from here on until another reset gives
                others; one for all, or ``Each`` with one for each of ``envs``.
            seconds: the deadline, if not ``request_seconds``.

        Raises:
            UnknownOption, InvalidOption: of ``options``; nothing has been sent.
        """
        index = self._index(envs)
        message = pb.Reset(environments=self._rows(index), seeds=seeds or ())
        if seeds is not None and len(seeds) != len(index):
            raise InvalidArgument(f"{len(seeds)} seeds for {len(index)} environments", "seeds")
        if options:
            message.options.CopyFrom(options_to_proto(self.description, options, len(index)))
        return self._send(index, "reset", pb.SimRequest(reset=message), "batch", seconds)

    def send_step(
        self,
        actions: Sequence[BatchedValue],
        envs: Sequence[int] | IntArray | None = None,
        seconds: float | None = None,
        rows: Sequence[IntArray | None] | None = None,
    ) -> Pending:
        """Advances environments by one action of each agent that is to act there.

        Args:
            actions: for each group a batched value with a row for each agent of each environment,
                or for each of its ``rows``. What is there for agents that are not to act only
                needs the right shape and dtype.
            envs: which environments, increasing; None for all.
            seconds: the deadline, if not ``request_seconds``.
            rows: for each group the rows of the agents whose actions these are, int64 [n],
                increasing, all of ``envs``; at least those that ``GroupBatch.acting`` named. None,
                also for a single group, for all agents of ``envs``.

        Raises:
            InvalidAction: an action whose structure, shape or dtype is not the space's; nothing
                has been sent. The server also checks that it lies within the space.
            InvalidArgument: ``envs`` or ``rows`` that are not as above; nothing has been sent.
        """
        index = self._index(envs)
        if len(actions) != len(self.groups) or (rows is not None and len(rows) != len(actions)):
            raise InvalidAction(
                f"actions for {len(actions)} and rows for "
                f"{len(actions if rows is None else rows)} of {len(self.groups)} groups"
            )
        plan = self._plans.of(index)
        body: pb.SimRequest | bytes | None = None
        if plan is not None and (rows is None or all(named is None for named in rows)):
            body = plan.write_request(actions)
        if body is None:
            message = pb.Step(environments=self._rows(index))
            write_actions(message, self.groups, index, actions, rows or [None] * len(actions))
            body = pb.SimRequest(step=message)
        return self._send(index, "step", body, "batch", seconds, plan)

    def send_render(
        self, envs: Sequence[int] | IntArray | None = None, seconds: float | None = None
    ) -> Pending:
        index = self._index(envs)
        request = pb.SimRequest(render=pb.Render(environments=self._rows(index)))
        return self._send(index, "render", request, "frames", seconds)

    def send_save_state(
        self, envs: Sequence[int] | IntArray | None = None, seconds: float | None = None
    ) -> Pending:
        index = self._index(envs)
        request = pb.SimRequest(save_state=pb.SaveState(environments=self._rows(index)))
        return self._send(index, "save_state", request, "states", seconds)

    def send_load_state(
        self,
        states: Sequence[bytes],
        envs: Sequence[int] | IntArray | None = None,
        seconds: float | None = None,
    ) -> Pending:
        index = self._index(envs)
        message = pb.LoadState(environments=self._rows(index), states=states)
        return self._send(index, "load_state", pb.SimRequest(load_state=message), "batch", seconds)

    def receive(self, pending: Pending) -> Any:
        """Waits for the reply.

        Returns:
            A ``Batch`` after a reset, a step or a loaded state; a list of uint8 [height, width, 3]
            after ``send_render``; a list of bytes after ``send_save_state``.

        Raises:
            DeadlineExceeded: it did not come in time. The session is of no further use.
            SessionLost: the environments are gone, or the connection to them was for longer than
                ``resume_seconds``.
            FarsimError: what the server answered; nothing has then happened to any environment.
        """
        reply = self._stream.receive(pending.request, pending.kind)
        try:
            return self._decode(reply, pending)
        except FarsimError as error:
            # It has been carried out, but nobody can tell with what result.
            self._stream.failure = error
            self._stream.close()
            raise

    def _decode(self, reply: Reply, pending: Pending) -> Any:
        if pending.kind == "batch":
            return Batch.from_bytes(
                reply.raw,
                reply.begin,
                reply.end,
                pending.environments,
                self.groups,
                self.description.parameters,
                pending.plan,
            )
        if pending.kind == "frames":
            return [tensors.unpack(frame) for frame in reply.message.frames.frames]
        return list(reply.message.states.states)

    # -- synchronous ----------------------------------------------------------------------

    def reset(
        self,
        envs: Sequence[int] | IntArray | None = None,
        seeds: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> Batch:
        """As ``send_reset``, and waits."""
        return self.receive(self.send_reset(envs, seeds, options, seconds))

    def step(
        self,
        actions: Sequence[BatchedValue],
        envs: Sequence[int] | IntArray | None = None,
        seconds: float | None = None,
        rows: Sequence[IntArray | None] | None = None,
    ) -> Batch:
        """As ``send_step``, and waits."""
        return self.receive(self.send_step(actions, envs, seconds, rows))

    def render(
        self, envs: Sequence[int] | IntArray | None = None, seconds: float | None = None
    ) -> list[NDArray[np.uint8]]:
        """One RGB picture, uint8 [height, width, 3], for each environment."""
        return self.receive(self.send_render(envs, seconds))

    def save_state(
        self, envs: Sequence[int] | IntArray | None = None, seconds: float | None = None
    ) -> list[bytes]:
        """The state of each environment; only if ``description.can_save_state``."""
        return self.receive(self.send_save_state(envs, seconds))

    def load_state(
        self,
        states: Sequence[bytes],
        envs: Sequence[int] | IntArray | None = None,
        seconds: float | None = None,
    ) -> Batch:
        """Puts environments into saved states; the batch has the observations there."""
        return self.receive(self.send_load_state(states, envs, seconds))

    def close(self) -> None:
        """Frees the environments; again does nothing."""
        self._stream.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Session is a connection of this process and can not be pickled or copied: open "
            "another one where it is needed"
        )

    def __repr__(self) -> str:
        return f"Session({self.description.name} x {self.num_envs} on {self.address})"

    # -- messages -------------------------------------------------------------------------

    def _send(
        self,
        envs: IntArray,
        what: str,
        request: pb.SimRequest | bytes,
        kind: str,
        seconds: float | None,
        plan: StepPlan | None = None,
    ) -> Pending:
        body = request if isinstance(request, bytes) else request.SerializeToString()
        within = self._stream.options.request_seconds if seconds is None else seconds
        return Pending(envs, self._stream.send(what, body, within), kind, plan)

    def _index(self, envs: Sequence[int] | IntArray | None) -> IntArray:
        if envs is None:
            return self._plans.whole.environments
        index = np.asarray(envs)
        known = self._plans.known(index)
        if known is not None:
            return known
        if (
            index.ndim != 1
            or not index.size
            or index.dtype.kind not in "iu"
            or np.any(np.diff(index) <= 0)
            or not 0 <= index[0] <= index[-1] < self.num_envs
        ):
            raise InvalidArgument(
                f"environments are increasing numbers below {self.num_envs}, not {envs}", "envs"
            )
        return index.astype(np.int64)

    def _rows(self, index: IntArray) -> tensor_pb2.Rows | None:
        return None if len(index) == self.num_envs else tensor_pb2.Rows(index=index.tolist())


def _choose(described: pb.DescribeReply, simulator: str) -> SimulatorDescription | None:
    """The description of what ``simulator`` will open; None leaves the error to the server."""
    for candidate in described.simulators:
        if candidate.name == simulator or (not simulator and len(described.simulators) == 1):
            return SimulatorDescription.from_proto(candidate)
    return None
