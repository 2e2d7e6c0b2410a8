"""Signals: at once, or after the iteration."""

import io
import os
import signal

import pytest
from rich.console import Console

from agent.training.display import display_on, duration
from agent.training.interrupt import Interrupt, Interrupted
from agent.training.iteration import Iteration
from agent.training.stopping import StopConditions


def test_a_signal_stops_at_once_where_nothing_is_lost():
    with Interrupt(lambda: None), pytest.raises(Interrupted) as raised:
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.code == 143


def test_a_signal_is_noted_where_something_is_and_a_second_one_stops():
    told = []
    with Interrupt(lambda: told.append(True)) as interrupt:
        with interrupt.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            assert (told, interrupt.number) == ([True], signal.SIGINT)
            with pytest.raises(Interrupted):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted) as raised:
            interrupt.check()
    assert raised.value.code == 130


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt(lambda: None) as interrupt:
        assert signal.getsignal(signal.SIGINT) != before
        interrupt.check()
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_what_people_look_for(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    iteration = Iteration(
        number=7,
        steps=5000,
        seconds=100.0,
        new_steps=5000,
        steps_per_second=1234.5,
        mean_return=-98.76,
        mean_length=150.0,
        episodes=30,
        faults=2,
        infos={"slowdown": 3.14159},
    )
    with display_on(console, StopConditions(steps=10_000)) as display:
        display.show(iteration)
    shown = console.file.getvalue()
    for text in ("iteration", "5,000", "1,23", "-98.8", "slowdown", "3.14", "faults", "1:40"):
        assert text in shown


def test_durations_read_like_clocks():
    assert [duration(seconds) for seconds in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
