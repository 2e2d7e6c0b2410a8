"""Opening sessions, and requests out of turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from farsim import spaces
from farsim.check import samples
from farsim.check.play import expect_error, step_of
from farsim.check.stream import code_name, told
from farsim.check.subject import MODES, Subject
from farsim.check.verdicts import Blocked, Broken, Chapter, NotExercised, NotOffered
from farsim.errors import FarsimError, InvalidOption
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2

CHAPTER = Chapter()
_LARGEST = 2**32 - 1


def refused(subject: Subject, codes: Sequence[int], sent: str, **fields: Any) -> None:
    """Opens a session that must not be granted."""
    stream = subject.stream()
    stream.send(subject.opening(**fields))
    expect_error(stream, codes, sent)


@CHAPTER.check(
    "open", "is granted", "Starts a session. No episode runs yet: the first request after it is"
)
def _granted(subject: Subject) -> None:
    try:
        subject.open()
    except Blocked as blocked:
        raise Broken(f"'open' of {subject.simulator.name}", "'opened'", str(blocked)) from blocked


@CHAPTER.check("open", "options", "Every parameter, with the value that holds.")
def _options(subject: Subject) -> None:
    declared = {parameter.name: parameter for parameter in subject.simulator.parameters}
    if not declared:
        raise NotOffered("no parameters")
    asked = {name: p.default for name, p in declared.items()} | subject.options
    for given in (subject.options, asked):
        sent = f"'open' with {'all' if given else 'no'} options"
        opened = subject.open(options=pb.Options(values=given)).opened.options.values
        if set(opened) != set(declared):
            raise Broken(sent, f"options {sorted(declared)}", str(sorted(opened)))
        for name, parameter in declared.items():
            space = spaces.from_proto(parameter.space)
            try:
                spaces.check(
                    space, spaces.decode(space, opened[name].tensors, 1), 1, InvalidOption, name
                )
            except FarsimError as error:
                raise Broken(
                    sent, "one row of each parameter, in its space", f"'{name}': {error}"
                ) from error
            if opened[name] != asked[name]:
                raise Broken(
                    sent, f"the value asked for, or the default, of '{name}'", "another one"
                )


@CHAPTER.check("open", "groups", "The agents and their spaces, for the parameters' defaults.")
def _groups(subject: Subject) -> None:
    opened = subject.open(options=pb.Options()).opened
    if list(opened.groups) != list(subject.simulator.groups):
        raise Broken("'open' without options", "the groups that Describe told of", "other ones")


@CHAPTER.check("open", "token", "Secret: who has it can take the session over.")
def _token(subject: Subject) -> None:
    first = subject.open().opened.session_token
    subject.end()
    second = subject.open().opened.session_token
    if not first or first == second:
        raise Broken("'open' twice", "two different tokens", f"{first!r} and {second!r}")


@CHAPTER.check("open", "mode by default", "In `Open`: the same as NEXT_STEP.")
def _mode_by_default(subject: Subject) -> None:
    subject.offers(pb.AUTORESET_MODE_NEXT_STEP)
    opened = subject.open(autoreset_mode=pb.AUTORESET_MODE_UNSPECIFIED).opened
    if opened.autoreset_mode != pb.AUTORESET_MODE_NEXT_STEP:
        raise Broken(
            "'open' without an autoreset mode",
            "NEXT_STEP in `Opened`",
            pb.AutoresetMode.Name(opened.autoreset_mode),
        )


@CHAPTER.check("open", "each mode", "What happens when an episode is over.")
def _each_mode(subject: Subject) -> None:
    for mode in subject.simulator.autoreset_modes:
        opened = subject.open(autoreset_mode=mode).opened
        subject.end()
        if opened.autoreset_mode != mode:
            raise Broken(
                f"'open' with {MODES.get(mode, mode)}",
                "the same in `Opened`",
                str(opened.autoreset_mode),
            )


@CHAPTER.check("open", "undeclared mode", "A capability that the simulator does not declare.")
def _undeclared_mode(subject: Subject) -> None:
    for mode, name in MODES.items():
        if mode not in subject.simulator.autoreset_modes:
            code = [pb.ERROR_CODE_UNSUPPORTED]
            refused(subject, code, f"'open' with {name}, undeclared", autoreset_mode=mode)
            return
    raise NotExercised("all modes are declared")


@CHAPTER.check(
    "open",
    "unknown simulator",
    "One of `DescribeReply.simulators`; may be empty if there is just one.",
    once=True,
)
def _unknown_simulator(subject: Subject) -> None:
    code = [pb.ERROR_CODE_UNKNOWN_SIMULATOR]
    refused(subject, code, "'open' of a simulator that there is not", simulator="no-such-simulator")
    if len(subject.server.simulators) > 1:
        refused(subject, code, "'open' of no simulator, of several", simulator="")
    else:
        subject.open(simulator="")


@CHAPTER.check("open", "unknown option", "Options options = 4; // Any of the parameters.")
def _unknown_option(subject: Subject) -> None:
    values = {"no-such-option": tensor_pb2.Value()}
    refused(
        subject,
        [pb.ERROR_CODE_UNKNOWN_OPTION],
        "'open' with an option 'no-such-option'",
        options=pb.Options(values=values),
    )


@CHAPTER.check(
    "open",
    "value outside",
    "A value outside the parameter's space or choices, or not allowed here.",
)
def _value_outside(subject: Subject) -> None:
    tried = False
    for name, value in _wrong_values(subject):
        tried = True
        values = {**subject.options, name: value}
        refused(
            subject,
            [pb.ERROR_CODE_INVALID_OPTION],
            f"'open' with a value of '{name}' that is outside its space or choices",
            options=pb.Options(values=values),
        )
    if not tried:
        raise NotOffered("no parameter that a value could be outside of")


def _wrong_values(subject: Subject) -> Iterator[tuple[str, tensor_pb2.Value]]:
    for parameter in subject.simulator.parameters:
        space = spaces.from_proto(parameter.space)
        if parameter.choices:
            wrong = parameter.choices[0][:-1]
            if wrong not in parameter.choices:
                encoded = spaces.encode(space, (wrong,), 1)
                yield parameter.name, tensor_pb2.Value(tensors=encoded)
            continue
        outside = samples.outside(space, list(parameter.default.tensors), 0)
        if outside is not None:
            yield parameter.name, tensor_pb2.Value(tensors=outside)


@CHAPTER.check("open", "no environments", "uint32 num_environments = 3; // At least 1.")
def _no_environments(subject: Subject) -> None:
    code = [pb.ERROR_CODE_INVALID_ARGUMENT]
    refused(subject, code, "'open' with 0 environments", num_environments=0)


@CHAPTER.check(
    "open",
    "too many of the simulator",
    "How many environments one session may have; 0 means no bound of its own.",
)
def _too_many_of_the_simulator(subject: Subject) -> None:
    bound = subject.simulator.max_environments
    if not 0 < bound < _LARGEST:
        raise NotOffered("no bound")
    refused(
        subject,
        [pb.ERROR_CODE_LIMIT],
        f"'open' with {bound + 1} environments, where max_environments is {bound}",
        num_environments=bound + 1,
    )


@CHAPTER.check(
    "open",
    "too many of the server",
    "Bounds of the whole server. A request beyond one gets ERROR_CODE_LIMIT",
    once=True,
)
def _too_many_of_the_server(subject: Subject) -> None:
    bound = subject.server.limits.max_environments
    if not 0 < bound < _LARGEST:
        raise NotOffered("no bound")
    refused(
        subject,
        [pb.ERROR_CODE_LIMIT],
        f"'open' with {bound + 1} environments, where the server's limit is {bound}",
        num_environments=bound + 1,
    )


@CHAPTER.check(
    "open", "other major version", "Another major version gets ERROR_CODE_PROTOCOL_VERSION."
)
def _other_major_version(subject: Subject) -> None:
    major = int(subject.server.protocol_version.partition(".")[0] or 1)
    for version in (f"{major + 1}.0", ""):
        refused(
            subject,
            [pb.ERROR_CODE_PROTOCOL_VERSION],
            f"'open' with protocol_version '{version}'",
            protocol_version=version,
        )


@CHAPTER.check(
    "open",
    "later minor version",
    "Peers with the same major version understand each other",
)
def _later_minor_version(subject: Subject) -> None:
    version = f"{subject.server.protocol_version.partition('.')[0]}.99"
    stream = subject.stream()
    stream.send(subject.opening(protocol_version=version))
    reply = stream.receive()[1]
    if not reply.HasField("opened"):
        raise Broken(f"'open' with protocol_version {version}", "'opened'", told(reply))
    stream.send(pb.SimRequest(sequence=2, close=pb.Close()))
    stream.receive()


@CHAPTER.check("open", "lease", "the server may shorten it. See `Opened.lease_seconds`.")
def _lease(subject: Subject) -> None:
    opened = subject.open(lease_seconds=3.0).opened
    if not 0 <= opened.lease_seconds <= 3.0:
        raise Broken(
            "'open' with lease_seconds 3", "3 or less in `Opened`", f"{opened.lease_seconds}"
        )


@CHAPTER.check(
    "open", "in flight", "uint32 max_in_flight = 4; // Requests without a reply, for each session."
)
def _in_flight(subject: Subject) -> None:
    found, bound = subject.open().opened.max_in_flight, subject.server.limits.max_in_flight
    if found < 1 or (bound and found > bound):
        raise Broken("'open'", f"max_in_flight from 1 to {bound or 'any'}", str(found))


_OUT_OF_TURN = "A request out of turn: no `open`, no `reset` yet, `open` twice."


@CHAPTER.check("turn", "a step before open", _OUT_OF_TURN)
def _step_before_open(subject: Subject) -> None:
    stream = subject.stream()
    stream.send(pb.SimRequest(sequence=1, step=pb.Step()))
    expect_error(stream, [pb.ERROR_CODE_PROTOCOL], "'step' as a stream's first request")


@CHAPTER.check("turn", "a step before reset", _OUT_OF_TURN)
def _step_before_reset(subject: Subject) -> None:
    play = subject.open()
    codes = [pb.ERROR_CODE_PROTOCOL]
    play.refused(codes, "'step' right after 'open'", step=step_of(play.draw()))


@CHAPTER.check("turn", "open twice", _OUT_OF_TURN)
def _open_twice(subject: Subject) -> None:
    play = subject.open()
    again = subject.opening().open
    play.refused([pb.ERROR_CODE_PROTOCOL], "'open' in an open session", open=again)


@CHAPTER.check(
    "turn",
    "the session goes on",
    "A request that cannot be carried out gets an `error` reply; nothing has then happened to "
    "any environment, and the session goes on.",
)
def _the_session_goes_on(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    reply = play.ask(reset=pb.Reset(environments=tensor_pb2.Rows(index=[play.count])))
    if not reply.HasField("error"):
        raise NotExercised(f"the wrong request got {told(reply)}")
    try:
        play.act()
    except Blocked as blocked:
        sent = f"'step' after {code_name(reply.error.code)}"
        raise Broken(sent, "'batch'", str(blocked)) from blocked
