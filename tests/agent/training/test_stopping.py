"""When training stops, and how long it says that will take."""

import math

import pytest

from agent.training.iteration import Iteration
from agent.training.stopping import StopConditions
from farsim.errors import InvalidOption


def after(steps: int, seconds: float, mean_return: float = -100.0, resumed_at: int = 0):
    return Iteration(
        number=1,
        steps=steps,
        seconds=seconds,
        new_steps=steps - resumed_at,
        steps_per_second=1.0,
        mean_return=mean_return,
        mean_length=1.0,
        episodes=1,
    )


def test_the_first_condition_that_holds_stops():
    stop = StopConditions(mean_return=-50, steps=1000, seconds=60)
    assert stop.reached(after(999, 59)) == ""
    assert "mean return is -49" in stop.reached(after(10, 1, -49))
    assert "1,000 steps" in stop.reached(after(1000, 1))
    assert "60 s" in stop.reached(after(10, 60))


def test_no_episode_has_no_return_to_reach():
    assert StopConditions(mean_return=-50).reached(after(10, 1, math.nan)) == ""


def test_time_left_is_that_of_what_comes_first():
    stop = StopConditions(steps=1000, seconds=60)
    assert stop.seconds_left(after(500, 10)) == 10
    assert stop.seconds_left(after(100, 30)) == 30
    assert stop.fraction(after(500, 10)) == 0.5


def test_after_a_resume_only_new_steps_tell_the_speed():
    stop = StopConditions(steps=1000)
    assert stop.seconds_left(after(900, 10, resumed_at=800)) == 10


def test_a_return_says_nothing_about_time():
    assert math.isnan(StopConditions(mean_return=5).seconds_left(after(10, 1)))
    assert math.isnan(StopConditions(mean_return=5).fraction(after(10, 1)))


def test_conditions_that_hold_at_once_are_errors():
    with pytest.raises(InvalidOption, match="--stop-steps is a positive number, not 0"):
        StopConditions(steps=0)
    with pytest.raises(InvalidOption, match="--stop-time"):
        StopConditions(seconds=-1)
