"""Requests on their way for several groups of environments at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable

from farsim.bench.turns import Stride


class Pipeline:
    """Sends each group's next step when its last one has come; one group is a ping-pong.

    Nothing is on its way between two turns.

    Args:
        groups: how many.
        send: sends a step of a group.
        receive: waits for it; environment steps, and bytes both ways.
    """

    def __init__(
        self,
        groups: int,
        send: Callable[[int], None],
        receive: Callable[[int], tuple[int, int]],
    ) -> None:
        self._groups = groups
        self._send_of, self._receive_of = send, receive
        self._sent = [0.0] * groups
        self._next = 0

    def begin(self) -> None:
        """Sends a step of every group."""
        self._next = 0
        for group in range(self._groups):
            self._send(group)

    def stride(self) -> Stride:
        """Waits for the group that was sent first, and sends its next step."""
        group = self._next
        done = self._receive(group)
        self._send(group)
        self._next = (group + 1) % self._groups
        return done

    def finish(self) -> Stride:
        """Waits for all groups."""
        order = [(self._next + number) % self._groups for number in range(self._groups)]
        strides = [self._receive(group) for group in order]
        return Stride(sum(done.steps for done in strides), sum(done.payload for done in strides), 0)

    def _send(self, group: int) -> None:
        self._sent[group] = time.perf_counter()
        self._send_of(group)

    def _receive(self, group: int) -> Stride:
        steps, payload = self._receive_of(group)
        return Stride(steps, payload, time.perf_counter() - self._sent[group])
