"""Waiting for simulators that may never come, and what ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from agent.training.interrupt import Interrupt
from farsim.errors import FarsimError


class StoppedWaiting(FarsimError):
    """Nobody has come until a signal did, or until the time was over.

    Attributes:
        reason: as ``StopConditions.reached`` says it; empty after a signal.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason or "stopped while waiting for simulators")
        self.reason = reason


class Patience:
    """How long people want to wait.

    Args:
        interrupt: whose signal ends it.
        seconds: from now; None for any number.
    """

    def __init__(self, interrupt: Interrupt, seconds: float | None) -> None:
        self._interrupt, self._seconds = interrupt, seconds
        self._began = time.monotonic()

    def check(self) -> None:
        """Raises ``StoppedWaiting`` once it is over."""
        if self._interrupt.number:
            raise StoppedWaiting("")
        seconds = time.monotonic() - self._began
        if self._seconds is not None and seconds >= self._seconds:
            raise StoppedWaiting(f"{seconds:.0f} s have passed")


def watch_rounds(
    algorithm: Algorithm, patience: Patience, wait_seconds: float, tell: Callable[[], None]
) -> None:
    """Has ``patience`` checked between two rounds of sampling by env runners of their own.

    RLlib asks them again and again until there is a whole batch, which is for ever where no
    simulator comes. A round that has not kept its runners waiting is left alone: the iteration
    comes to its end soon, and nothing of it is lost.

    Args:
        algorithm: that samples with ``synchronous_parallel_sample``; others iterate by time.
        patience: what is checked.
        wait_seconds: how long a runner waits in one round.
        tell: called after each round that has brought nothing.
    """
    group: Any = algorithm.env_runner_group
    config: Any = algorithm.config
    ask = group.foreach_env_runner
    has_waited = False

    def watched(func: Any, **options: Any) -> Any:
        nonlocal has_waited
        # Of all that runners are asked, only sampling has this time limit.
        if options.get("timeout_seconds") != config.sample_timeout_s:
            return ask(func, **options)
        if has_waited:
            patience.check()
        begun = time.monotonic()
        results = ask(func, **options)
        has_waited = time.monotonic() - begun >= wait_seconds
        if has_waited and not any(map(_episodes, results)):
            tell()
        return results

    group.foreach_env_runner = watched


def _episodes(result: Any) -> Any:
    """What a runner has sampled, which comes with its metrics or without."""
    return result[0] if isinstance(result, tuple) else result
