"""The server under test, one simulator of it, and what several checks look at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import grpc

from farsim import options as option_values
from farsim import spaces
from farsim.channel import ConnectionOptions, open_channel
from farsim.check.batches import View
from farsim.check.play import Play, step_of
from farsim.check.stream import Stream, StreamEnded, told
from farsim.check.verdicts import Blocked, NotExercised, NotOffered
from farsim.protocol import PROTOCOL_VERSION
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import simulator_pb2_grpc, tensor_pb2

#: Of the walks that are looked at: how many steps, and after how many seconds to stop earlier.
WALK_STEPS, WALK_SECONDS = 60, 2.0
#: How many steps to wait for the end of an episode.
EPISODE_STEPS = 2000
#: How long sessions are to outlive a broken stream, s; they are closed in any case.
LEASE_SECONDS = 30.0

#: The modes by the name that people know.
MODES: dict[int, str] = {
    pb.AUTORESET_MODE_NEXT_STEP: "NEXT_STEP",
    pb.AUTORESET_MODE_SAME_STEP: "SAME_STEP",
    pb.AUTORESET_MODE_DISABLED: "DISABLED",
}


class Subject:
    """A simulator on a server.

    Args:
        address: of the server.
        connection: how to reach it.
        description: what the server says it has.
        simulator: the one to look at.
        envs: how many environments sessions are to have, at most.
        options: values for parameters, by name, as people write them.
        seconds: for each check.
    """

    def __init__(
        self,
        address: str,
        connection: ConnectionOptions,
        description: pb.DescribeReply,
        simulator: pb.SimulatorDescription,
        envs: int = 4,
        options: Mapping[str, Any] | None = None,
        seconds: float = 20.0,
    ) -> None:
        self.address, self.connection, self.seconds = address, connection, seconds
        self.server, self.simulator = description, simulator
        bounds = [simulator.max_environments, description.limits.max_environments // 2]
        self.envs = max(1, min([envs, *(bound for bound in bounds if bound)]))
        self._options = options or {}
        self._deadline = time.monotonic() + seconds
        self._channels: list[grpc.Channel] = []
        self._plays: list[Play] = []
        self._streams: list[Stream] = []
        self._walks: dict[int, Walk] = {}

    @property
    def name(self) -> str:
        return self.simulator.name

    # -- one check ------------------------------------------------------------------------

    def begin(self) -> None:
        """A check starts: its time runs from here."""
        self._deadline = time.monotonic() + self.seconds

    def end(self) -> None:
        """The check is over: all that it has opened is closed."""
        for play in self._plays:
            play.close()
        for stream in self._streams:
            stream.cut()
        for channel in self._channels:
            channel.close()
        self._plays, self._streams, self._channels = [], [], []

    def seconds_left(self) -> float:
        """Until the check is given up."""
        return self._deadline - time.monotonic()

    def wait(self, seconds: float) -> None:
        """Does nothing, for a check that is about what happens then."""
        time.sleep(seconds)

    def close(self) -> None:
        """All checks are over; if there are more later, they connect anew."""
        if "shared_channel" in self.__dict__:
            self.shared_channel.close()
            del self.shared_channel

    @cached_property
    def shared_channel(self) -> grpc.Channel:
        """The connection of all who need none of their own."""
        return open_channel(self.address, self.connection)

    def channel(self, **options: Any) -> grpc.Channel:
        """A connection of its own, with some options changed."""
        channel = open_channel(self.address, replace(self.connection, **options))
        self._channels.append(channel)
        return channel

    def stream(self, channel: grpc.Channel | None = None) -> Stream:
        """A new call of ``Run``."""
        stream = Stream(channel or self.shared_channel, self.seconds_left())
        self._streams.append(stream)
        return stream

    def describe(self, version: str = "") -> pb.DescribeReply:
        """What the server says it has.

        Raises:
            Blocked: it does not say.
        """
        stub = simulator_pb2_grpc.SimulatorStub(self.shared_channel)
        try:
            return stub.Describe(
                pb.DescribeRequest(protocol_version=version), timeout=self.seconds_left()
            )
        except grpc.RpcError as error:
            raise Blocked(f"Describe got {error.code().name}: {error.details()}") from error

    # -- sessions -------------------------------------------------------------------------

    def opening(self, **fields: Any) -> pb.SimRequest:
        """The request that opens a session; ``fields`` change it."""
        chosen = {
            "protocol_version": PROTOCOL_VERSION,
            "simulator": self.simulator.name,
            "num_environments": self.envs,
            "options": pb.Options(values=self.options),
            "autoreset_mode": self.simulator.autoreset_modes[0]
            if self.simulator.autoreset_modes
            else pb.AUTORESET_MODE_UNSPECIFIED,
            "lease_seconds": LEASE_SECONDS,
        }
        return pb.SimRequest(sequence=1, open=pb.Open(**{**chosen, **fields}))

    def open(self, channel: grpc.Channel | None = None, **fields: Any) -> Play:
        """A session.

        Raises:
            Blocked: the server does not open it.
        """
        request = self.opening(**fields)
        stream = self.stream(channel)
        stream.send(request)
        try:
            reply = stream.receive()[1]
        except StreamEnded as ended:
            raise Blocked(f"to 'open' came {ended}") from ended
        if not reply.HasField("opened"):
            raise Blocked(f"'open' got {told(reply)}")
        play = Play(stream, reply.opened, request.open.num_environments)
        self._plays.append(play)
        return play

    def resumed(self, play: Play) -> tuple[Stream, pb.SimReply]:
        """A new stream that asks for the session of ``play``, and what it was told."""
        stream = self.stream()
        stream.send(self.resuming(play.opened.session_token))
        try:
            return stream, stream.receive()[1]
        except StreamEnded as ended:
            raise Blocked(f"to 'resume' came {ended}") from ended

    @staticmethod
    def resuming(token: str) -> pb.SimRequest:
        """The request that resumes a session."""
        return pb.SimRequest(
            resume=pb.Resume(session_token=token, protocol_version=PROTOCOL_VERSION)
        )

    @cached_property
    def options(self) -> dict[str, tensor_pb2.Value]:
        """The values for parameters that every session is opened with.

        Raises:
            FarsimError: one that the simulator does not take.
        """
        declared = {parameter.name: parameter for parameter in self.simulator.parameters}
        values = {}
        for name, value in self._options.items():
            option_values.known(name, declared, self.simulator.name)
            space = spaces.from_proto(declared[name].space)
            member = option_values.check(name, space, value, declared[name].choices)
            tensors = spaces.encode(space, spaces.batch(space, [member]), 1)
            values[name] = tensor_pb2.Value(tensors=tensors)
        return values

    # -- what several checks look at --------------------------------------------------------

    def seeds(self, first: int = 11) -> list[int]:
        """A seed for each environment."""
        return list(range(first, first + self.envs))

    def offers(self, mode: int) -> None:
        """Raises ``NotOffered`` unless the simulator declares this autoreset mode."""
        if mode not in self.simulator.autoreset_modes:
            raise NotOffered(f"{MODES[mode]} is not among autoreset_modes")

    def several(self, count: int = 2) -> None:
        """Raises ``NotOffered`` unless sessions have so many environments."""
        if self.envs < count:
            raise NotOffered(f"needs sessions of {count} environments")

    def walk(self, mode: int | None = None) -> Walk:
        """A walk with allowed actions, the same one for all who ask."""
        if mode is None:
            mode = next(iter(self.simulator.autoreset_modes), pb.AUTORESET_MODE_NEXT_STEP)
        if mode not in self._walks:
            self._walks[mode] = Walk(self.open(autoreset_mode=mode), self.seeds())
        return self._walks[mode]

    def alike(self, one: Callable[[Play], Any], other: Callable[[Play], Any]) -> tuple[Any, Any]:
        """What two courses of events make of the same episodes.

        Raises:
            NotExercised: episodes with the same seed are not the same, so nothing can be told.
        """
        if not self.reproducible:
            raise NotExercised("the same seed does not give the same episode, so none can tell")
        first = one(self.open())
        self.end()
        return first, other(self.open())

    @cached_property
    def reproducible(self) -> bool:
        """Whether two sessions with the same seeds and actions go alike."""
        return self.trace() == self.trace()

    def trace(self, seeds: list[int] | None = None, steps: int = 12) -> list[Any]:
        """What a new session with these seeds shows."""
        play = self.open()
        views = [play.reset(seeds=seeds or self.seeds())]
        views += [play.act() for _ in range(steps)]
        play.close()
        return [view.figure() for view in views]


class Walk:
    """A session's first steps, with allowed actions.

    Attributes:
        play: the session, which may be closed.
        views: the batches, that of the reset first.
        over: the environments whose episode was over before each of them.
        error: the reply to a step that was no batch; None if there was none.

    Raises:
        Blocked: there is nothing to look at.
    """

    def __init__(self, play: Play, seeds: list[int]) -> None:
        self.play = play
        self.error: pb.SimReply | None = None
        self.over: list[set[int]] = [play.over()]
        self.views: list[View] = [play.reset(seeds=seeds)]
        until = time.monotonic() + WALK_SECONDS
        disabled = play.opened.autoreset_mode == pb.AUTORESET_MODE_DISABLED
        while len(self.views) < WALK_STEPS and time.monotonic() < until:
            over = play.over()
            if disabled and over:
                break
            reply = play.ask(step=step_of(play.draw()))
            if not reply.HasField("batch"):
                self.error = reply
                break
            self.over.append(over)
            self.views.append(play.see("step", reply))
        play.close()
