"""Waits that keep the processor awake: when they do, when they leave it, and what they return."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from farsim.http2.spin import Spin

LIMIT = 0.05
SHORT, LONG = LIMIT / 10, LIMIT * 3


class Watched:
    """A poll on a clock of its own, which notes for how long it was asked to sleep.

    Args:
        sock: what is polled.
        now: the clock: a list of one element, which goes on by as long as is slept.
    """

    def __init__(self, sock: socket.socket, now: list[float]) -> None:
        self._poll, self._now = select.poll(), now
        self._poll.register(sock, select.POLLIN)
        self.asked: list[int | None] = []
        self.hook: Callable[[], Any] = lambda: None

    def poll(self, milliseconds: int | None) -> list[tuple[int, int]]:
        self.asked.append(milliseconds)
        self.hook()
        found = self._poll.poll(0 if milliseconds is not None else 20_000)
        if not found:
            assert milliseconds is not None, "nothing came"
            self._now[0] += milliseconds / 1000
        return found

    @property
    def spun(self) -> bool:
        """Whether it was asked without sleep."""
        return 0 in self.asked

    @property
    def slept(self) -> bool:
        return any(asked != 0 for asked in self.asked)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock on which nothing takes more than a microsecond, but for sleep."""
    clock = [1000.0]

    def read() -> float:
        clock[0] += 1e-6
        return clock[0]

    monkeypatch.setattr("farsim.http2.spin.time.monotonic", read)
    return clock


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    first, second = socket.socketpair()
    with first, second:
        yield first, second


@pytest.fixture
def watched(ends: tuple[socket.socket, socket.socket], now: list[float]) -> Watched:
    return Watched(ends[0], now)


def wait(spin: Spin, watched: Watched, seconds: float | None) -> bool:
    watched.asked.clear()
    return spin.wait(watched, seconds)  # type: ignore[arg-type]


def test_without_a_limit_it_sleeps_at_once(watched: Watched) -> None:
    assert not wait(Spin(0.0), watched, 0.002)
    assert watched.asked == [2]


def test_what_is_there_is_found_without_sleep(
    ends: tuple[socket.socket, socket.socket], watched: Watched
) -> None:
    ends[1].send(b"x")
    assert wait(Spin(LIMIT), watched, None)
    assert watched.asked == [0]


def test_a_message_that_comes_soon_is_found_without_sleep(
    ends: tuple[socket.socket, socket.socket], watched: Watched
) -> None:
    def send_at_the_third() -> None:
        if len(watched.asked) == 3:
            ends[1].send(b"x")

    watched.hook = send_at_the_third
    assert wait(Spin(LIMIT), watched, None)
    assert watched.asked == [0, 0, 0]


def test_nothing_in_time_is_nothing(watched: Watched, now: list[float]) -> None:
    spin, begun = Spin(SHORT), now[0]
    assert not wait(spin, watched, LONG)
    assert watched.spun and watched.slept
    assert LONG <= now[0] - begun < LONG + 0.002
    assert not wait(spin, watched, 0)
    assert watched.asked == [0]


def test_after_a_long_wait_it_sleeps_and_after_a_short_one_it_asks_again(
    ends: tuple[socket.socket, socket.socket], watched: Watched
) -> None:
    spin = Spin(SHORT)
    assert not wait(spin, watched, LONG)
    assert not wait(spin, watched, LONG)
    assert watched.slept and not watched.spun
    ends[1].send(b"x")
    assert wait(spin, watched, None) and watched.slept
    assert wait(spin, watched, None) and not watched.slept


def test_whoever_wants_the_processor_gets_it(
    watched: Watched, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def others_run() -> None:
        now[0] += 0.003

    monkeypatch.setattr(os, "sched_yield", others_run)
    spin = Spin(LIMIT)
    assert not wait(spin, watched, SHORT + LIMIT)
    assert watched.asked[0] == 0 and len(watched.asked) == 2 and watched.slept
    spin._is_likely = True
    assert not wait(spin, watched, SHORT + LIMIT)
    assert not watched.spun  # They are left alone for a while.
    spin._is_likely = True
    now[0] += 1.0
    assert not wait(spin, watched, SHORT + LIMIT)
    assert watched.spun


def test_two_threads_do_not_spin_at_a_time(
    ends: tuple[socket.socket, socket.socket], watched: Watched, now: list[float]
) -> None:
    beside, slept = socket.socketpair()
    with beside, slept:
        slept.send(b"x")
        other = Watched(beside, now)
        found: list[bool] = []

        def while_it_spins() -> None:
            thread = threading.Thread(target=lambda: found.append(wait(Spin(LIMIT), other, None)))
            thread.start()
            thread.join(20)
            ends[1].send(b"x")

        watched.hook = while_it_spins
        assert wait(Spin(LIMIT), watched, None)
        assert found == [True] and not other.spun
