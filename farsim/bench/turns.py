"""One side of a comparison: a process that plays when it is told to, and says how it went.

Needs the standard library alone, and no other module of Farsim, so that it can be put on the path
of any interpreter.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

#: How long a process may take to end once it has been left.
_END_SECONDS = 3.0


class Stride(NamedTuple):
    """What one call of a player has done.

    Attributes:
        steps: environment steps; a row that only begins an episode is none.
        payload: bytes of the arrays that went either way, whatever they were packed in.
        seconds: how long the player waited from its actions to their results; None for the time
            that the call took, 0 where it is no single step's.
    """

    steps: int
    payload: int
    seconds: float | None = None


class Lines:
    """Standard input and output, a line at a time; what is printed goes to standard error.

    To be made before any library is imported that prints. When standard input ends, whoever started
    this process has gone: it then has a few seconds to end, whatever it is waiting for.
    """

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="lines", daemon=True).start()

    def say(self, **document: Any) -> None:
        """Writes one JSON document."""
        self._out.write(json.dumps(document) + "\n")
        self._out.flush()

    def __iter__(self) -> Iterator[str]:
        """What is heard, until standard input ends."""
        return iter(self._heard.get, None)

    def _listen(self) -> None:
        for line in sys.stdin:
            self._heard.put(line)
        self._heard.put(None)
        time.sleep(_END_SECONDS)
        os._exit(1)


def serve_until_left(lines: Lines, address: str) -> None:
    """Tells where a server listens, and returns when whoever started it has gone."""
    lines.say(address=address)
    for _ in lines:
        pass


def take_turns(
    lines: Lines,
    stride: Callable[[], Stride],
    begin: Callable[[], None] = lambda: None,
    finish: Callable[[], Stride] = lambda: Stride(0, 0, 0.0),
    **facts: Any,
) -> None:
    """Plays for as many seconds as each line of standard input says, until that ends.

    Args:
        lines: for the results.
        stride: makes one step, or as few as can be made at a time.
        begin: is called before the first stride of a turn, to send requests.
        finish: is called after the last one, to wait for those that are still on their way.
        facts: to tell once, before the first turn.
    """
    lines.say(ready=True, **facts)
    for line in lines:
        lines.say(**turn(stride, begin, finish, float(line)))


def turn(
    stride: Callable[[], Stride],
    begin: Callable[[], None],
    finish: Callable[[], Stride],
    seconds: float,
) -> dict[str, Any]:
    """Plays for ``seconds`` at least, and one stride at least.

    Returns:
        "steps" and "payload" (bytes), "seconds", "cpu" (seconds of this process), and "p50" and
        "p99" of a step's latency in seconds, None where no stride is a single step.
    """
    steps = payload = 0
    waits: list[float] = []
    cpu = time.process_time()
    begun = before = time.perf_counter()
    until = begun + seconds
    begin()
    while before < until:
        done, size, wait = stride()
        now = time.perf_counter()
        waits.append(now - before if wait is None else wait)
        before = now
        steps += done
        payload += size
    done, size, _ = finish()
    taken = time.perf_counter() - begun
    waits = sorted(wait for wait in waits if wait)
    return {
        "steps": steps + done,
        "payload": payload + size,
        "seconds": taken,
        "cpu": time.process_time() - cpu,
        "p50": waits[len(waits) // 2] if waits else None,
        "p99": waits[len(waits) * 99 // 100] if waits else None,
    }
