"""Resets: seeds, random streams and per-episode options."""

from __future__ import annotations

from typing import Any

from farsim import spaces
from farsim.check.play import Play
from farsim.check.stream import told
from farsim.check.subject import Subject
from farsim.check.verdicts import Broken, Chapter, NotExercised, NotOffered
from farsim.errors import FarsimError
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

CHAPTER = Chapter()
_SEEDED = "The same seed with the same options gives the same episodes."
_STREAMS = (
    "Without a seed an environment goes on with the random stream that it has; a session's "
    "environments never share one."
)
#: Signed 64-bit ones at and beyond the edges of smaller types.
EDGE_SEEDS = (-1, 0, 2**31, -(2**31) - 1, 2**32, 2**63 - 1, -(2**63))


@CHAPTER.check("reset", "starts episodes", "The environments whose episode started in this request")
def _starts_episodes(subject: Subject) -> None:
    play = subject.open()
    view = play.reset()
    if view.started != play.every(None):
        raise Broken("'reset' of all", f"started {play.every(None)}", str(view.started))


@CHAPTER.check(
    "reset", "no rewards", "These three are absent in the reply to `reset` and `load_state`."
)
def _no_rewards(subject: Subject) -> None:
    for part in subject.open().reset().message.groups:
        present = [name for name in ("reward", "terminated", "truncated") if part.HasField(name)]
        if present:
            raise Broken("'reset'", "no reward, terminated and truncated", f"{present}")


@CHAPTER.check("seeds", "in two sessions", _SEEDED)
def _in_two_sessions(subject: Subject) -> None:
    if not subject.reproducible:
        raise Broken(
            "the same seeds and actions in two sessions", "the same replies", "different ones"
        )


@CHAPTER.check("seeds", "again in a session", _SEEDED)
def _again_in_a_session(subject: Subject) -> None:
    if not subject.reproducible:
        raise NotExercised("not even two sessions go alike")
    play = subject.open()
    first = [play.reset(seeds=subject.seeds())]
    sent = [play.draw()]
    first.append(play.step(sent[0]))
    play.act()
    again = [play.reset(seeds=subject.seeds()), play.step(sent[0])]
    for what, one, other in zip(("'reset'", "a step"), first, again, strict=True):
        if one.figure() != other.figure():
            raise Broken(
                f"the same seeds again in the same session, then {what}",
                "the same reply as at first",
                "another one",
            )


@CHAPTER.check("seeds", "of 64 bits", _SEEDED)
def _of_64_bits(subject: Subject) -> None:
    for first in range(0, len(EDGE_SEEDS), subject.envs):
        seeds = list(EDGE_SEEDS[first : first + subject.envs])
        request = pb.Reset(environments=tensor_pb2.Rows(index=range(len(seeds))), seeds=seeds)
        figures = []
        for _ in range(2):
            play = subject.open()
            reply = play.ask(reset=request)
            if not reply.HasField("batch"):
                raise Broken(f"'reset' with seeds {seeds}", "'batch'", told(reply))
            figures.append(play.see("reset", reply, range(len(seeds))).figure())
            subject.end()
        if subject.reproducible and figures[0] != figures[1]:
            raise Broken(f"seeds {seeds} in two sessions", "the same observations", "other ones")


@CHAPTER.check("seeds", "their number", "Empty, or one for each environment named.")
def _number_of_seeds(subject: Subject) -> None:
    play = subject.open()
    seeds = subject.seeds()
    play.refused(
        [pb.ERROR_CODE_INVALID_ARGUMENT],
        f"'reset' of {len(seeds)} environments with {len(seeds) + 1} seeds",
        reset=pb.Reset(seeds=[*seeds, 1]),
    )


@CHAPTER.check("streams", "of one's own", _STREAMS)
def _streams_of_ones_own(subject: Subject) -> None:
    subject.several()

    def alone(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        return [play.reset([0]).figure() for _ in range(3)]

    def among_others(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        figures = []
        for _ in range(3):
            play.reset([1])
            figures.append(play.reset([0]).figure())
        return figures

    one, other = subject.alike(alone, among_others)
    if one != other:
        raise Broken(
            "resets of environment 0 without a seed, and those of environment 1 in between",
            "the episodes that environment 0 has without them",
            "other ones",
        )


@CHAPTER.check("streams", "unlike each other", _STREAMS)
def _streams_unlike_each_other(subject: Subject) -> None:
    subject.several()
    play = subject.open()
    drawn: list[list[object]] = [[] for _ in play.every(None)]
    for _ in range(8):
        for env in play.every(None):
            drawn[env].append([part[1] for part in play.reset([env]).observations()])
    if all(start == drawn[0][0] for starts in drawn for start in starts):
        raise NotExercised("all episodes start alike")
    for env, starts in enumerate(drawn[1:], 1):
        if starts == drawn[0] and any(start != starts[0] for start in starts):
            raise Broken(
                "eight resets without seeds",
                "different episodes in different environments",
                f"the same eight beginnings in environments 0 and {env}",
            )


def _per_episode(subject: Subject, wanted: bool) -> pb.Parameter:
    for parameter in subject.simulator.parameters:
        if parameter.per_episode is wanted:
            return parameter
    raise NotOffered("no parameter that is " + ("per episode" if wanted else "for a session"))


@CHAPTER.check("reset", "session options", "Options options = 3; // Per-episode parameters only.")
def _session_options(subject: Subject) -> None:
    parameter = _per_episode(subject, False)
    play = subject.open()
    play.refused(
        [pb.ERROR_CODE_INVALID_OPTION],
        f"'reset' with '{parameter.name}', which is not per episode",
        reset=pb.Reset(options=pb.Options(values={parameter.name: parameter.default})),
    )


@CHAPTER.check(
    "reset",
    "option rows",
    "Each is a batch of one row, which holds for every environment, or of one row for each "
    "environment named in the request.",
)
def _option_rows(subject: Subject) -> None:
    parameter = _per_episode(subject, True)
    subject.several()
    space = spaces.from_proto(parameter.space)
    (default,) = spaces.unbatch(space, spaces.decode(space, parameter.default.tensors, 1), 1)
    play = subject.open()
    for rows in (1, play.count):
        reply = play.ask(reset=_with_option(parameter, space, default, rows))
        if not reply.HasField("batch"):
            sent = f"'reset' with {rows} rows of '{parameter.name}'"
            raise Broken(sent, "'batch'", told(reply))
    play.refused(
        [
            pb.ERROR_CODE_INVALID_OPTION,
            pb.ERROR_CODE_INVALID_TENSOR,
            pb.ERROR_CODE_INVALID_ARGUMENT,
        ],
        f"'reset' of {play.count} environments with {play.count + 1} rows of '{parameter.name}'",
        reset=_with_option(parameter, space, default, play.count + 1),
    )


def _with_option(parameter: pb.Parameter, space: Any, value: Any, rows: int) -> pb.Reset:
    tensors = spaces.encode(space, spaces.batch(space, [value] * rows), rows)
    values = {parameter.name: tensor_pb2.Value(tensors=tensors)}
    return pb.Reset(options=pb.Options(values=values))


@CHAPTER.check("reset", "unknown option", "Values of parameters by name.")
def _unknown_option(subject: Subject) -> None:
    play = subject.open()
    play.refused(
        [pb.ERROR_CODE_UNKNOWN_OPTION],
        "'reset' with an option 'no-such-option'",
        reset=pb.Reset(options=pb.Options(values={"no-such-option": tensor_pb2.Value()})),
    )


@CHAPTER.check(
    "reset",
    "options in use",
    "per-episode parameters that it really uses, drawn ones included: a batch with one row for "
    "each environment started.",
)
def _options_in_use(subject: Subject) -> None:
    _per_episode(subject, True)
    declared = {p.name: p for p in subject.simulator.parameters if p.per_episode}
    for view in subject.walk().views:
        used = view.message.episode_options.values
        if not set(used) <= set(declared):
            raise Broken(
                "'reset' and steps", f"episode_options among {sorted(declared)}", str(sorted(used))
            )
        for name, value in used.items():
            space = spaces.from_proto(declared[name].space)
            try:
                spaces.decode(space, value.tensors, len(view.started))
            except FarsimError as error:
                raise Broken(
                    "'reset' and steps",
                    f"{len(view.started)} rows of '{name}' where so many episodes started",
                    str(error),
                ) from error
