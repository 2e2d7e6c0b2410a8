"""Sessions that are opened by one server, before there is a policy, and go on at another."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Greeted:
    """A session that another server has opened, before there was a policy.

    Attributes:
        token: that its client resumes it with.
        hello: the event that opened it, serialised.
    """

    token: str
    hello: bytes


def write_greeted(path: Path, greeted: Sequence[Greeted]) -> None:
    """Writes sessions, with the secrets that open them, to a file for this user's eyes only."""
    document = [[one.token, base64.b64encode(one.hello).decode()] for one in greeted]
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(document, file)


def read_greeted(path: str) -> list[Greeted]:
    """What ``write_greeted`` has written; nothing if it is not there, or on another machine."""
    if not path or not Path(path).is_file():
        return []
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    return [Greeted(token, base64.b64decode(hello)) for token, hello in document]
