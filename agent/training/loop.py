"""The training loop: iterate, record, save, stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ray.rllib.algorithms.algorithm import Algorithm

from agent.training import checkpoint as checkpoints
from agent.training.checkpoint import Manifest
from agent.training.display import Display
from agent.training.interrupt import Interrupt
from agent.training.iteration import Iteration, read
from agent.training.records import Records
from agent.training.stopping import StopConditions
from agent.training.waiting import StoppedWaiting
from farsim.errors import FarsimError


class Checkpoints:
    """Saves an algorithm now and then.

    Args:
        algorithm: what to save.
        manifest: as of the start of training.
        folder: where checkpoints go, each in a folder named by its iteration.
        run_folder: where the pointer to the latest goes.
        every: how many iterations from one to the next; 0 for only at the end.

    Attributes:
        latest: the last one saved; None before the first.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        manifest: Manifest,
        folder: Path,
        run_folder: Path,
        every: int,
    ) -> None:
        self.latest: Path | None = None
        self._algorithm = algorithm
        self._manifest = manifest
        self._folder = folder
        self._run_folder = run_folder
        self._every = every
        self._saved = -1

    def after(self, iteration: Iteration) -> None:
        """Saves if it is time."""
        if self._every and iteration.number % self._every == 0:
            self.save(iteration.number, iteration.steps)

    def save(self, number: int, steps: int) -> None:
        """Saves, unless this iteration has been saved already."""
        if number == self._saved:
            return
        manifest = replace(self._manifest, iteration=number, steps=steps)
        self.latest = checkpoints.save(self._algorithm, manifest, self._folder, f"{number:06d}")
        checkpoints.point_to(self._run_folder, self.latest)
        self._saved = number


def train(
    algorithm: Algorithm,
    *,
    stop: StopConditions,
    saving: Checkpoints,
    records: Records,
    display: Display,
    interrupt: Interrupt,
    steps_at_start: int,
    groups: Mapping[str, Sequence[str]] | None = None,
    iterated: Callable[[Iteration], None] = lambda iteration: None,
) -> str:
    """Trains until a stop condition holds or a signal comes, and saves.

    Args:
        algorithm: built, and restored if it is to go on.
        stop: when to stop.
        saving: where checkpoints go.
        records: where results go.
        display: what shows them.
        interrupt: is deferred to the end of the iteration.
        steps_at_start: environment steps that have been done already.
        groups: with several agents, their names by group.
        iterated: is called after each iteration.

    Returns:
        Why it stopped; empty if it was interrupted.

    Raises:
        FarsimError: the simulators are gone. What had been learned has been saved.
    """
    begun = time.monotonic()
    steps = steps_at_start
    iteration = None
    with interrupt.deferred():
        while True:
            before = time.monotonic()
            try:
                result = algorithm.train()
            except FarsimError as error:
                # No simulators any more, most likely: what has been learned is kept.
                if iteration is not None:
                    saving.save(iteration.number, iteration.steps)
                if isinstance(error, StoppedWaiting):
                    return error.reason
                raise
            now = time.monotonic()
            iteration = read(
                result,
                seconds=now - begun,
                iteration_seconds=now - before,
                steps_before=steps,
                steps_at_start=steps_at_start,
                groups=groups,
            )
            steps = iteration.steps
            records.add(iteration, result)
            display.show(iteration)
            iterated(iteration)
            reason = stop.reached(iteration)
            if reason or interrupt.number:
                saving.save(iteration.number, iteration.steps)
                return "" if interrupt.number else reason
            saving.after(iteration)
