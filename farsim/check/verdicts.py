"""Checks, the promise that each stands for, and what can be found about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farsim.check.subject import Subject


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
        once: whether it is about the server, and not about each of its simulators.
    """

    group: str
    name: str
    sentence: str
    run: Callable[[Subject], None]
    once: bool = False

    @property
    def title(self) -> str:
        return f"{self.group}/{self.name}"


@dataclass(frozen=True)
class Outcome:
    """What became of one check of one simulator.

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


Register = Callable[[Callable[["Subject"], None]], Callable[["Subject"], None]]


class Chapter(list[Check]):
    """The checks of one part of the contract, in the order in which they are carried out."""

    def check(self, group: str, name: str, sentence: str, once: bool = False) -> Register:
        """Makes a check of the function below."""

        def register(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
            self.append(Check(group, name, sentence, run, once))
            return run

        return register
