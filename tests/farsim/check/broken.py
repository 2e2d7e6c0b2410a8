"""Servers that each break one promise of the contract, and keep all others.

Run as a program it serves them all, and writes a line with name and address of each into a file.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
from gymnasium.vector import AutoresetMode

import simserver.server
from farsim import tensors
from farsim.channel import ConnectionOptions
from farsim.check import runner
from farsim.check.verdicts import Outcome
from farsim.errors import InvalidAction, InvalidTensor
from farsim.serving import stop_with_parent
from farsim.v1 import simulator_pb2 as pb
from simserver import catalogue
from simserver.limits import Limits
from simserver.server import Server, ServerOptions
from simserver.service import SimulatorService
from simserver.session import Session
from simserver.simulator import Batch, IntArray
from tests.simulators.everything import Everything

SIMULATOR = "tests.simulators.everything:Everything"


class Mischief:
    """What a server does wrong: here, nothing.

    Attributes:
        expected: the one check that must catch it.
        sentence: the beginning of what that check stands for.
        simulator: what is served.
        session: what sessions are.
    """

    expected: ClassVar[str]
    sentence: ClassVar[str]
    simulator: ClassVar[type[Everything]] = Everything
    session: ClassVar[type[Session]] = Session

    def request(self, request: pb.SimRequest) -> None:
        """Changes what the server understands."""

    def reply(self, request: pb.SimRequest, reply: pb.SimReply) -> None:
        """Changes what the client gets."""


class Service(SimulatorService):
    """The real service, with a mischief in its way."""

    def __init__(self, mischief: Mischief, *args: Any) -> None:
        super().__init__(*args)
        self.mischief = mischief

    def _answer(self, stream: Any, raw: bytes) -> bytes | None:
        request = pb.SimRequest.FromString(raw)
        understood = pb.SimRequest.FromString(raw)
        self.mischief.request(understood)
        if understood != request:
            raw = understood.SerializeToString()
        data = super()._answer(stream, raw)
        if stream.session is not None and type(stream.session) is Session:
            stream.session.__class__ = self.mischief.session
        if data is None:
            return None
        reply = pb.SimReply.FromString(data)
        before = pb.SimReply.FromString(data)
        self.mischief.reply(request, reply)
        return data if reply == before else reply.SerializeToString()


# -- what batches look like ---------------------------------------------------------------


class SingleRewards(Mischief):
    expected, sentence = "batch/rewards", "Tensor reward = 3; // float64"

    def reply(self, request: pb.SimRequest, reply: pb.SimReply) -> None:
        for part in reply.batch.groups:
            if part.HasField("reward"):
                reward = tensors.unpack(part.reward).astype(np.float32)
                part.reward.CopyFrom(tensors.pack(reward))


class BeyondBounds(Mischief):
    expected, sentence = "batch/observations inside", "Sets of values"

    class simulator(Everything):
        def _batch(self, envs: IntArray, there: np.ndarray) -> Batch:
            batch = super()._batch(envs, there)
            batch.groups[0].observation["noise"] = batch.groups[0].observation["noise"] + 2000
            return batch


class NothingAllowed(Mischief):
    expected, sentence = "masks/something is allowed", "At least one is allowed in every row"

    class simulator(Everything):
        def _batch(self, envs: IntArray, there: np.ndarray) -> Batch:
            batch = super()._batch(envs, there)
            batch.groups[0].action_masks[0][self._time[batch.groups[0].rows // 2] == 1] = False
            return batch


class ActingAfterTheEnd(Mischief):
    expected, sentence = "turns/who is to act is there", "all among `rows`, none of them ended."

    def reply(self, request: pb.SimRequest, reply: pb.SimReply) -> None:
        if reply.batch.groups and reply.batch.groups[1].HasField("terminated"):
            part = reply.batch.groups[1]
            rows = part.rows.index or range(4)
            ended = [
                row
                for row, over in zip(rows, tensors.unpack(part.terminated), strict=False)
                if over and row not in reply.batch.started.index
            ]
            acting = sorted({*part.acting.index, *ended})
            part.acting.index[:] = acting


# -- seeds and streams --------------------------------------------------------------------


class SeedsIgnored(Mischief):
    expected, sentence = "seeds/in two sessions", "The same seed with the same options"

    class simulator(Everything):
        def reset(self, envs: IntArray, seeds: Any, options: Any) -> Batch:
            return super().reset(envs, None, options)


class SeedsTakenOnce(Mischief):
    expected, sentence = "seeds/again in a session", "The same seed with the same options"

    class simulator(Everything):
        def reset(self, envs: IntArray, seeds: Any, options: Any) -> Batch:
            seeded = getattr(self, "seeded", False)
            self.seeded = seeded or seeds is not None
            return super().reset(envs, None if seeded else seeds, options)


class NoNegativeSeeds(Mischief):
    expected, sentence = "seeds/of 64 bits", "The same seed with the same options"

    class simulator(Everything):
        def reset(self, envs: IntArray, seeds: Any, options: Any) -> Batch:
            if seeds is not None and min(seeds) < 0:
                raise ValueError("seeds must not be negative")
            return super().reset(envs, seeds, options)


class OneStreamForAll(Mischief):
    expected, sentence = "streams/of one's own", "Without a seed an environment goes on with"

    class simulator(Everything):
        can_save_state = False

        def reset(self, envs: IntArray, seeds: Any, options: Any) -> Batch:
            self._random = [self._random[0]] * len(self._random)
            if seeds is not None:
                self._random = [np.random.default_rng(seeds[0] % 2**64)] * len(self._random)
            return super().reset(envs, None, options)


class SurplusSeeds(Mischief):
    expected, sentence = "seeds/their number", "Empty, or one for each environment named."

    def request(self, request: pb.SimRequest) -> None:
        if request.HasField("reset") and not request.reset.HasField("environments"):
            del request.reset.seeds[4:]


# -- actions ------------------------------------------------------------------------------


class AnyDtype(Mischief):
    expected, sentence = "actions/of another dtype", "Wrong dtype or shape, or outside"

    def request(self, request: pb.SimRequest) -> None:
        for group, dtype in zip(request.step.groups, (np.int64, np.float32), strict=False):
            for tensor in group.actions.tensors:
                if len(tensor.data) % 4 == 0:
                    tensor.CopyFrom(tensors.pack(tensors.unpack(tensor).astype(dtype)))


class Clipping(Mischief):
    expected, sentence = "actions/outside the space", "Wrong dtype or shape, or outside"

    def request(self, request: pb.SimRequest) -> None:
        if request.step.groups and request.step.groups[0].actions.tensors:
            tensor = request.step.groups[0].actions.tensors[0]
            if tensor.dtype == 9 and len(tensor.data) % 8 == 0:
                array = tensors.unpack(tensor)
                tensor.CopyFrom(tensors.pack(np.clip(array, 0, 2)))


class HalfCarriedOut(Mischief):
    expected, sentence = "actions/nothing has happened", "A request that cannot be carried out"

    class session(Session):
        def _step(self, asked: Any) -> list[Any]:
            try:
                return super()._step(asked)
            except (InvalidAction, InvalidTensor):
                self._episodes.simulator._place += 1
                raise


# -- numbers ------------------------------------------------------------------------------


class CarriedOutTwice(Mischief):
    """On one stream; after a break it knows what it has done."""

    expected, sentence = "sequence/a repeated request", "The server carries each number out once."

    class session(Session):
        def answer(self, stream: object, raw: bytes) -> bytes | None:
            if pb.SimRequest.FromString(raw).sequence == self._next:
                self.last_stream = stream
            return super().answer(stream, raw)

        def _repeat(self, sequence: int, raw: bytes) -> bytes:
            kept = self._replies.get(sequence)
            if kept and kept[0] == raw and getattr(self, "last_stream", None) is self.stream:
                asked = self._read(raw)
                return self._serialise(asked, self._carry_out(asked))
            return super()._repeat(sequence, raw)


class GapsAllowed(Mischief):
    expected, sentence = "sequence/a gap", "The server carries each number out once."

    class session(Session):
        def answer(self, stream: object, raw: bytes) -> bytes | None:
            self._next = max(self._next, pb.SimRequest.FromString(raw).sequence)
            return super().answer(stream, raw)


class AnswersByNumber(Mischief):
    expected = "sequence/another request with its number"
    sentence = "The server carries each number out once."

    class session(Session):
        def _repeat(self, sequence: int, raw: bytes) -> bytes:
            kept = self._replies.get(sequence)
            return kept[1] if kept else super()._repeat(sequence, raw)


class NoNumbers(Mischief):
    expected, sentence = "sequence/many in flight", "Every request carries a sequence number"

    def reply(self, request: pb.SimRequest, reply: pb.SimReply) -> None:
        reply.sequence = 0


# -- resuming and ending ------------------------------------------------------------------


class ForgetfulResume(Mischief):
    expected, sentence = "resume/the highest number", "The highest number carried out"

    def reply(self, request: pb.SimRequest, reply: pb.SimReply) -> None:
        if reply.HasField("resumed"):
            reply.resumed.last_sequence = 0


class FriendlyTakeOver(Mischief):
    """Ends the stream whose session is taken over with OK, as if it had been closed."""

    expected, sentence = "resume/a taken-over stream", "If another stream still carries"


class EndsWithAnError(Mischief):
    expected, sentence = "close/ends the stream", "The server ends the stream itself with"


class Endings(Service):
    """The service for the two that end streams in another way."""

    def _resume(self, stream: Any, request: pb.Resume) -> bytes:
        session = self._sessions.get(request.session_token)
        if isinstance(self.mischief, FriendlyTakeOver) and session is not None and session.stream:
            session.stream.end()
            session.stream = None
        return super()._resume(stream, request)

    def _forget(self, session: Session) -> None:
        super()._forget(session)
        if isinstance(self.mischief, EndsWithAnError) and session.stream is not None:
            session.stream._status = (grpc.StatusCode.UNAVAILABLE, "bye")


# -- ends of episodes ---------------------------------------------------------------------


class DisabledGoesOn(Mischief):
    expected, sentence = "autoreset/DISABLED", "A step for an environment whose episode is over"

    class session(Session):
        def _step(self, asked: Any) -> list[Any]:
            if self._episodes.mode is AutoresetMode.DISABLED:
                self._episodes.mode = AutoresetMode.NEXT_STEP
            return super()._step(asked)


class RewardedStart(Mischief):
    expected, sentence = "autoreset/NEXT_STEP", "The step after the end ignores"

    class session(Session):
        def _batch(self, envs: IntArray, batch: Batch, *plan: Any) -> list[Any]:
            begun = batch.started is not None and len(batch.started)
            if self._episodes.mode is AutoresetMode.NEXT_STEP and begun:
                for part in batch.groups:
                    part.reward = None if part.reward is None else part.reward + 1
            return super()._batch(envs, batch, *plan)


class NewObservationAsFinal(Mischief):
    expected = "autoreset/SAME_STEP's last observation"
    sentence = "The step that ends an environment's episode also starts its next"

    def reply(self, request: pb.SimRequest, reply: pb.SimReply) -> None:
        for part in reply.batch.groups:
            if len(part.final_rows.index) and len(part.final_observation.tensors) == 1:
                shape = part.final_observation.tensors[0].shape
                part.final_observation.tensors[0].CopyFrom(
                    tensors.pack(np.zeros(tuple(shape), np.float32))
                )


# -- what is offered ----------------------------------------------------------------------


class QuietOptions(Mischief):
    expected, sentence = "open/options", "Every parameter, with the value that holds."

    def reply(self, request: pb.SimRequest, reply: pb.SimReply) -> None:
        if reply.HasField("opened"):
            del reply.opened.options.values["name"]


class UnknownOptionsDropped(Mischief):
    expected, sentence = "open/unknown option", "Options options = 4; // Any of the parameters."

    def request(self, request: pb.SimRequest) -> None:
        if request.HasField("open"):
            request.open.options.values.pop("no-such-option", None)


class StatesOfOneSession(Mischief):
    expected, sentence = "state/in another session", "Puts environments into states saved before"

    class simulator(Everything):
        def __init__(self, num_envs: int, **options: Any) -> None:
            super().__init__(num_envs, **options)
            # No id: the address of one that is gone may be the next one's.
            self._mark = secrets.token_hex(4).encode()

        def save_state(self, envs: IntArray) -> list[bytes]:
            return [self._mark + b" " + state for state in super().save_state(envs)]

        def load_state(self, envs: IntArray, states: Sequence[bytes]) -> Batch:
            if any(state.partition(b" ")[0] != self._mark for state in states):
                raise ValueError("a state of another session")
            return super().load_state(envs, [state.partition(b" ")[2] for state in states])


MISCHIEF: dict[str, type[Mischief]] = {found.__name__: found for found in Mischief.__subclasses__()}


def look(address: str) -> list[Outcome]:
    """What the kit says of a server."""
    return runner.run(runner.subjects(address, ConnectionOptions()), runner.chosen())


def serve(mischief: type[Mischief]) -> Server:
    """A server of that kind, on a free port."""
    service: Any = Endings if mischief in (FriendlyTakeOver, EndsWithAnError) else Service
    simserver.server.SimulatorService = partial(service, mischief())  # type: ignore[misc]
    entry = catalogue.load([SIMULATOR], {})[SIMULATOR]
    build: Callable[..., Any] = mischief.simulator
    options = ServerOptions(limits=Limits(max_message_bytes=256 * 1024))
    server = Server(
        {"everything": replace(entry, name="everything", build=build)}, "127.0.0.1:0", options
    )
    server.start()
    return server


def main(file: str, parent: str) -> None:
    servers: Mapping[str, Server] = {name: serve(found) for name, found in MISCHIEF.items()}
    lines = "".join(f"{name} {server.address}\n" for name, server in servers.items())
    partial_file = Path(f"{file}.partial")
    partial_file.write_text(lines)
    os.replace(partial_file, file)
    last = list(servers.values())[-1]
    stop_with_parent(int(parent), last.stop)
    last.run_until_stopped()


if __name__ == "__main__":
    main(*sys.argv[1:])
