"""Carries the checks out, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import grpc

from farsim.channel import ConnectionOptions, open_channel, translate
from farsim.check.stream import StreamEnded
from farsim.check.subject import Subject
from farsim.check.suite import CHECKS
from farsim.check.verdicts import (
    Blocked,
    Broken,
    Check,
    Examined,
    NotExercised,
    NotOffered,
    Outcome,
    Status,
)
from farsim.errors import FarsimError, UnknownSimulator
from farsim.options import nearest
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import simulator_pb2_grpc

_STATUS = {
    Broken: Status.failed,
    Blocked: Status.blocked,
    NotOffered: Status.not_offered,
    NotExercised: Status.not_exercised,
}


def describe(address: str, connection: ConnectionOptions) -> pb.DescribeReply:
    """What the server says it has.

    Raises:
        FarsimError: it can not be reached, does not let us in, or is no server of simulators.
    """
    with open_channel(address, connection) as channel:
        stub = simulator_pb2_grpc.SimulatorStub(channel)
        try:
            return stub.Describe(pb.DescribeRequest(), timeout=connection.connect_seconds)
        except grpc.RpcError as error:
            raise translate(error, address) from error


def chosen(
    only: Sequence[str] = (), skip: Sequence[str] = (), checks: Sequence[Check] = CHECKS
) -> list[Check]:
    """The checks whose title, or group, one of ``only`` matches and none of ``skip`` does.

    Args:
        only: shell patterns; none means all.
        skip: shell patterns.
        checks: to choose from.
    """
    return [c for c in checks if (not only or _matches(c, only)) and not _matches(c, skip)]


def unmatched(patterns: Sequence[str], checks: Sequence[Check] = CHECKS) -> list[str]:
    """Those of the patterns that no check's title or group matches."""
    return [text for text in patterns if not any(_matches(check, [text]) for check in checks)]


def _matches(check: Check, patterns: Sequence[str]) -> bool:
    names = (check.title, check.group)
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def subjects(
    address: str,
    connection: ConnectionOptions,
    simulator: str = "",
    envs: int = 4,
    options: Mapping[str, Any] | None = None,
    seconds: float = 20.0,
) -> list[Subject]:
    """The simulators of a server, or the one called ``simulator``.

    Raises:
        UnknownSimulator: there is none.
        FarsimError: the server can not be asked, or a simulator does not take ``options``.
    """
    description = describe(address, connection)
    names = [found.name for found in description.simulators]
    if not names or (simulator and simulator not in names):
        what = f"no simulator '{simulator}'" if simulator else "no simulators"
        raise UnknownSimulator(f"{address} has {what}{nearest(simulator, names)}", simulator)
    found = [
        Subject(address, connection, description, each, envs, options, seconds)
        for each in description.simulators
        if not simulator or each.name == simulator
    ]
    for subject in found:
        _ = subject.options  # Wrong ones are told of before anything else is tried.
    return found


def run(
    subjects: Sequence[Examined],
    checks: Sequence[Check],
    begun: Callable[[Check, str], None] = lambda check, simulator: None,
) -> list[Outcome]:
    """Carries out ``checks`` on each of ``subjects``; those about the server on the first alone.

    What is blocked while nothing has failed has itself failed: no other check tells why.

    Args:
        subjects: at least one.
        checks: in this order.
        begun: called before each.
    """
    try:
        outcomes = list(_each(subjects, checks, begun))
    finally:
        for subject in subjects:
            subject.close()
    if any(outcome.status is Status.failed for outcome in outcomes):
        return outcomes
    return [
        replace(outcome, status=Status.failed) if outcome.status is Status.blocked else outcome
        for outcome in outcomes
    ]


def _each(
    subjects: Sequence[Examined],
    checks: Sequence[Check],
    begun: Callable[[Check, str], None],
) -> Iterator[Outcome]:
    for check in checks:
        for subject in subjects[:1] if check.once else subjects:
            name = "" if check.once else subject.name
            begun(check, name)
            yield _carry_out(check, subject, name)


def _carry_out(check: Check, subject: Examined, name: str) -> Outcome:
    started = time.perf_counter()
    subject.begin()
    status, verdict = Status.passed, ""
    try:
        check.run(subject)
    except (Broken, Blocked, NotOffered, NotExercised) as found:
        status, verdict = _STATUS[type(found)], str(found)
    except StreamEnded as ended:
        status, verdict = Status.blocked, f"where a reply should come, came {ended}"
    except FarsimError as error:
        # What another check reads on purpose, and this one only on its way.
        status, verdict = Status.blocked, f"a reply can not be read: {error}"
    except Exception as error:
        # A server may send what nobody thought of: the other checks should still be carried out.
        status = Status.failed
        verdict = f"what the server sent made no sense to this check: {error!r}"
    finally:
        subject.end()
    return Outcome(check, name, status, time.perf_counter() - started, verdict)
