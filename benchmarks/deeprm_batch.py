"""How fast DeepRM steps a whole batch, beside single environments stepped one by one.

    python benchmarks/deeprm_batch.py

Both ways step the same number of environments with the same rules, observations and masks, reset
those whose episode has ended, and take random allowed actions, which are drawn outside the time
measured. They take turns within one run; the table gives the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from simserver.sims.deeprm import DeepRM
from simserver.simulator import Batch

#: About what the original program does with 10 slots on one core, whatever this machine is.
ORIGINAL_STEPS_PER_SECOND = 17_000
SIZES = (1, 16, 64, 256)
OBSERVATIONS = ("compact", "image")


@dataclass
class Environments:
    """A number of environments in simulators of one size, and the seconds spent in them."""

    simulators: list[DeepRM]
    masks: list[np.ndarray] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def make(cls, count: int, batch: int, **options: Any) -> Environments:
        values = {parameter.name: parameter.default for parameter in DeepRM.parameters}
        made = cls([DeepRM(batch, **{**values, **options}) for _ in range(count // batch)])
        for number, simulator in enumerate(made.simulators):
            seeds = list(range(number * batch, (number + 1) * batch))
            started = simulator.reset(np.arange(batch), seeds, {})
            made.masks.append(started.groups[0].action_masks[0].copy())
        return made

    def step(self, random: np.random.Generator) -> None:
        """One step of every environment."""
        for number, simulator in enumerate(self.simulators):
            mask = self.masks[number]
            actions = (random.random(mask.shape, np.float32) * mask).argmax(axis=1)
            envs = np.arange(len(mask))
            begun = time.perf_counter()
            batch = simulator.step(envs, [actions])
            ended = over(batch).nonzero()[0]
            restarted: Batch | None = None
            if ended.size:
                restarted = simulator.reset(ended, None, {})
            self.seconds += time.perf_counter() - begun
            self.steps += len(mask)
            mask[:] = batch.groups[0].action_masks[0]
            if restarted is not None:
                mask[ended] = restarted.groups[0].action_masks[0]

    def rate(self, random: np.random.Generator, seconds: float) -> float:
        """Environment steps a second, over about so many seconds."""
        self.steps, self.seconds = 0, 0.0
        while self.seconds < seconds:
            self.step(random)
        return self.steps / self.seconds


def over(batch: Batch) -> np.ndarray:
    group = batch.groups[0]
    return np.logical_or(group.terminated, group.truncated)  # type: ignore[arg-type]


def measure(
    count: int, observation: str, rounds: int, seconds: float
) -> tuple[float, float, float]:
    """Medians of steps a second in a batch, one by one, and of their ratio."""
    random = np.random.default_rng(0)
    batched = Environments.make(count, count, observation=observation)
    single = Environments.make(count, 1, observation=observation)
    for environments in (batched, single):
        environments.rate(random, seconds)
    rates = []
    for _ in range(rounds):
        rates.append((batched.rate(random, seconds), single.rate(random, seconds)))
    together, alone = zip(*rates, strict=True)
    ratio = statistics.median(one / other for one, other in rates)
    return statistics.median(together), statistics.median(alone), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="turns that each way takes")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn")
    arguments = parser.parse_args()
    table = Table("observation", title="DeepRM, 10 slots: environment steps per second on one core")
    for column in ("environments", "batch", "one by one", "ratio", "to the original's 17,000"):
        table.add_column(column, justify="right")
    cases = [(observation, count) for observation in OBSERVATIONS for count in SIZES]
    for observation, count in track(cases, "measuring", transient=True):
        together, alone, ratio = measure(count, observation, arguments.rounds, arguments.seconds)
        table.add_row(
            observation,
            str(count),
            f"{together:,.0f}",
            f"{alone:,.0f}",
            f"{ratio:.1f}",
            f"{together / ORIGINAL_STEPS_PER_SECOND:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
