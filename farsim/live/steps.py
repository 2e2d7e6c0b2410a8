"""What an episode asks of the link to its server, for clients that block and for coroutines."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

from farsim.live.session import Sent, Session
from farsim.v1 import policy_pb2 as pb


@dataclass(frozen=True)
class Join:
    """Asks for the session that takes events; there has to be one by ``until``."""

    until: float


@dataclass(frozen=True)
class Send:
    """Asks for an event to be sent by ``until``; gives ``Sent``."""

    session: Session
    what: str
    event: pb.LiveEvent
    until: float
    is_awaited: bool = False


@dataclass(frozen=True)
class Post:
    """Asks for an event to be sent as soon as there is room for it; waits for nothing."""

    session: Session
    what: str
    event: pb.LiveEvent


@dataclass(frozen=True)
class Wait:
    """Asks to wait until ``sent`` is done; raises if it is not by ``until``."""

    sent: Sent
    until: float


Request: TypeAlias = Join | Send | Post | Wait
#: Asks for what it needs, one after the other, and returns what the caller wants.
Steps: TypeAlias = Generator[Request, Any, Any]
