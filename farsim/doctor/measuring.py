"""A session that is stepped for a while, and how long each part of a step took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from farsim import spaces
from farsim.check.play import Play, step_of
from farsim.check.stream import StreamEnded
from farsim.check.subject import Subject
from farsim.check.verdicts import Blocked
from farsim.doctor.findings import Cause, Finding, Step, Stopped
from farsim.doctor.greeting import of_error
from farsim.v1 import simulator_pb2 as pb

#: Steps that are not counted: caches fill, and pages are touched for the first time.
_WARM_UP = 2
#: So many steps tell enough.
_MOST_STEPS = 400
#: A request that changes nothing is sent after every so many steps.
_IDLE_EVERY = 2


@dataclass
class Measured:
    """Steps of a session.

    Attributes:
        envs: environments in it.
        whole: seconds of each step, from the first byte packed to the last value read.
        simulator: of each step, as the server says; empty if it does not.
        server_codec: the same.
        client_codec: seconds to pack and to read, of each step.
        idle: seconds of each request that changes nothing, so nobody has to work for it.
        sent: bytes of a step's request.
        received: bytes of its reply.
        faults: environments that failed.
        is_debugging: whether the server sends tracebacks.
    """

    envs: int
    whole: list[float] = field(default_factory=list)
    simulator: list[float] = field(default_factory=list)
    server_codec: list[float] = field(default_factory=list)
    client_codec: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    faults: int = 0
    is_debugging: bool = False

    @property
    def rate(self) -> float:
        """Environment steps a second."""
        return self.envs / float(np.median(self.whole))


class Probe:
    """One session of a simulator.

    Args:
        subject: which; with how many environments.
        seconds: to step for, and to wait for one reply.
        steps: the way to it, which goes on here.

    Raises:
        Stopped: it can not be opened or reset.
    """

    def __init__(self, subject: Subject, seconds: float, steps: list[Step]) -> None:
        self._subject, self._seconds = subject, seconds
        self._play = self._open(steps)
        try:
            reply = self._ask("reset", reset=pb.Reset(seeds=subject.seeds()))
            self._play.see("reset", reply)
            steps.append(Step("reset", f"episodes have begun in {subject.envs} environments"))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the session."""
        self._subject.end()

    def step_for_a_while(self, until: Callable[[], bool] = lambda: False) -> Measured:
        """Steps for the given time, or until told to stop.

        Raises:
            Stopped: a step fails.
        """
        measured = Measured(self._subject.envs)
        deadline = time.monotonic() + self._seconds
        number = -_WARM_UP
        while number < _MOST_STEPS and not until():
            if number > 0 and time.monotonic() > deadline:
                break
            self._step(measured, counts=number >= 0)
            if number >= 0 and number % _IDLE_EVERY == 0:
                self._idle(measured)
            number += 1
        if not measured.whole:
            self._step(measured, counts=True)
            self._idle(measured)
        return measured

    # -- requests --------------------------------------------------------------------------

    def _step(self, measured: Measured, counts: bool) -> None:
        play = self._play
        actions = play.draw()
        started = time.perf_counter()
        request = play.next(step=step_of(actions)).SerializeToString()
        packed = time.perf_counter()
        raw, reply = self._exchange("step", request)
        arrived = time.perf_counter()
        if not reply.HasField("batch"):
            raise Stopped("step", of_error(reply.error))
        groups = play.groups
        for group, part in zip(groups, reply.batch.groups, strict=False):
            rows = len(part.rows.index) if part.HasField("rows") else None
            count = measured.envs * group.agents if rows is None else rows
            spaces.decode(group.observation_space, part.observation.tensors, count)
        read = time.perf_counter()
        play.see("step", reply)
        measured.faults += len(reply.batch.faults)
        if not counts:
            return
        measured.whole.append(read - started)
        measured.client_codec.append(packed - started + read - arrived)
        if reply.HasField("timing"):
            measured.simulator.append(reply.timing.simulator_seconds)
            measured.server_codec.append(reply.timing.codec_seconds)
        measured.sent, measured.received = len(request), len(raw)

    def _idle(self, measured: Measured) -> None:
        """Asks for a picture of no session that has any: an error, and nothing else."""
        request = self._play.next(render=pb.Render()).SerializeToString()
        started = time.perf_counter()
        _, reply = self._exchange("render", request)
        measured.idle.append(time.perf_counter() - started)
        measured.is_debugging = measured.is_debugging or bool(reply.error.traceback)

    def _exchange(self, what: str, request: bytes) -> tuple[bytes, pb.SimReply]:
        try:
            self._play.stream.send(request)
            return self._play.stream.receive()
        except (StreamEnded, Blocked) as error:
            raise Stopped(what, self._broken(what, error)) from error

    def _ask(self, what: str, **request: object) -> pb.SimReply:
        _, reply = self._exchange(what, self._play.next(**request).SerializeToString())
        if reply.HasField("error"):
            raise Stopped(what, of_error(reply.error))
        return reply

    def _open(self, steps: list[Step]) -> Play:
        subject = self._subject
        subject.begin()
        stream = subject.stream()
        stream.send(subject.opening())
        try:
            reply = stream.receive()[1]
        except (StreamEnded, Blocked) as error:
            subject.end()
            raise Stopped("open", self._broken("open", error)) from error
        if not reply.HasField("opened"):
            subject.end()
            raise Stopped("open", of_error(reply.error))
        steps.append(Step("open", f"a session of {subject.envs} environments"))
        return Play(stream, reply.opened, subject.envs)

    def _broken(self, what: str, error: Exception) -> Finding:
        if isinstance(error, StreamEnded) and error.status.name == "DEADLINE_EXCEEDED":
            return Finding(
                Cause.HANGS,
                f"no reply to '{what}' within {self._subject.seconds:g} s",
                "look at what the simulator does there; farsim serve --max-step-seconds starts a "
                "process anew that hangs, and --seconds waits longer here",
            )
        return Finding(
            Cause.LOST,
            f"to '{what}' came {error}",
            "see the server's log: it may have stopped, or something on the way cuts connections",
        )
