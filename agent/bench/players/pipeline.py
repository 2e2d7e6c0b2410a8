"""Requests on their way for several splits of environments at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable

from farsim.bench.turns import Stride


class Pipeline:
    """Sends each split's next step when its last one has come; one split is a ping-pong.

    Nothing is on its way between two turns.

    Args:
        splits: how many.
        send: sends a step of a split.
        receive: waits for it; environment steps, and bytes both ways.
    """

    def __init__(
        self,
        splits: int,
        send: Callable[[int], None],
        receive: Callable[[int], tuple[int, int]],
    ) -> None:
        self._splits = splits
        self._send_of, self._receive_of = send, receive
        self._sent = [0.0] * splits
        self._next = 0

    def begin(self) -> None:
        """Sends a step of every split."""
        self._next = 0
        for split in range(self._splits):
            self._send(split)

    def stride(self) -> Stride:
        """Waits for the split that was sent first, and sends its next step."""
        split = self._next
        done = self._receive(split)
        self._send(split)
        self._next = (split + 1) % self._splits
        return done

    def finish(self) -> Stride:
        """Waits for all splits."""
        order = [(self._next + number) % self._splits for number in range(self._splits)]
        strides = [self._receive(split) for split in order]
        return Stride(sum(done.steps for done in strides), sum(done.payload for done in strides), 0)

    def _send(self, split: int) -> None:
        self._sent[split] = time.perf_counter()
        self._send_of(split)

    def _receive(self, split: int) -> Stride:
        steps, payload = self._receive_of(split)
        return Stride(steps, payload, time.perf_counter() - self._sent[split])
