"""Checks, the promise that each stands for, and what can be found about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar


class Broken(Exception):
    """The server does not keep the promise that the running check stands for.

    Args:
        sent: what the kit did.
        expected: what the contract says should come of it.
        came: what came instead.
    """

    def __init__(self, sent: str, expected: str, came: str) -> None:
        super().__init__(f"sent {sent}; expected {expected}; came {came}")


class Blocked(Exception):
    """Something that the check needs first, and that another one is about, did not work."""


class NotOffered(Exception):
    """The server does not declare the capability."""


class NotExercised(Exception):
    """The capability may be there, but nothing that happened could show it."""


class Examined(Protocol):
    """A simulator or a policy on the server under test."""

    @property
    def name(self) -> str: ...

    def begin(self) -> None:
        """A check starts: its time runs from here."""

    def end(self) -> None:
        """The check is over: all that it has opened is closed."""

    def close(self) -> None:
        """All checks are over."""


class Status(str, Enum):
    """What became of a check."""

    passed = "pass"
    failed = "fail"
    blocked = "blocked"
    not_offered = "not offered"
    not_exercised = "not exercised"


@dataclass(frozen=True)
class Check:
    """One promise, and how to try it.

    Attributes:
        group: what it is about, in a word.
        name: unique within the group.
        sentence: of the contract, word for word.
        run: raises ``Broken``, ``Blocked``, ``NotOffered`` or ``NotExercised``, or returns.
        once: whether it is about the server, and not about each of its simulators or policies.
    """

    group: str
    name: str
    sentence: str
    run: Callable[[Any], None]
    once: bool = False

    @property
    def title(self) -> str:
        return f"{self.group}/{self.name}"


@dataclass(frozen=True)
class Outcome:
    """What became of one check of one simulator or policy.

    Attributes:
        check: which.
        simulator: whose; empty for the server's own.
        status: what came of it.
        seconds: how long it took.
        verdict: why it did not pass; empty if it did.
    """

    check: Check
    simulator: str
    status: Status
    seconds: float
    verdict: str = ""


#: What a check of simulators, or one of policies, looks at.
_Run = TypeVar("_Run", bound=Callable[[Any], None])


class Chapter(list[Check]):
    """The checks of one part of the contract, in the order in which they are carried out."""

    def check(
        self, group: str, name: str, sentence: str, once: bool = False
    ) -> Callable[[_Run], _Run]:
        """Makes a check of the function below."""

        def register(run: _Run) -> _Run:
            self.append(Check(group, name, sentence, run, once))
            return run

        return register
