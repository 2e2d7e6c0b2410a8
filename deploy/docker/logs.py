"""What several containers print, as one text."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any


def lines(containers: Sequence[Any], follow: bool, tail: int) -> Iterator[str]:
    """Each line after its container's name.

    Args:
        containers: of Docker's SDK.
        follow: go on until all of them have ended, with the lines in the order of their arrival;
            else one container comes after the other.
        tail: how many of each one's last lines to begin with; 0: all.
    """
    width = max(len(container.name) for container in containers)
    if not follow:
        for container in containers:
            for line in container.logs(tail=tail or "all").decode(errors="replace").splitlines():
                yield f"{container.name:{width}} | {line}"
        return
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for container in containers:
        threading.Thread(target=_read, args=(container, tail, width, arrived), daemon=True).start()
    ended = 0
    while ended < len(containers):
        line = arrived.get()
        if line is None:
            ended += 1
        else:
            yield line


def _read(container: Any, tail: int, width: int, arrived: queue.SimpleQueue[str | None]) -> None:
    try:
        rest = b""
        # Pieces end where the container's writes did, which need not be at the end of a line.
        for piece in container.logs(stream=True, follow=True, tail=tail or "all"):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                arrived.put(f"{container.name:{width}} | {line.decode(errors='replace')}")
        if rest:
            arrived.put(f"{container.name:{width}} | {rest.decode(errors='replace')}")
    finally:
        arrived.put(None)
