"""Rounds in which every row plays in turn, so that all of them see the same machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from agent.bench import peers
from agent.bench.case import Baseline, Case
from agent.bench.child import Usage
from agent.bench.launch import START_SECONDS, Launched
from farsim.errors import FarsimError

#: A fraction of a turn, which is played first and not counted.
_WARM_UP = 0.3

#: How much longer than asked for a turn may take: a last step, or a fragment, of a slow simulator.
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Turn:
    """What one row did in one round.

    Attributes:
        steps: environment steps.
        payload: bytes of arrays, both ways.
        seconds: it took.
        head_cpu: seconds of the head's process.
        simulator_cpu: seconds of the servers; None where there are none, or nobody says.
        p50: median of a step's latency, seconds; None where no single steps are seen.
        p99: 99th percentile.
    """

    steps: int
    payload: int
    seconds: float
    head_cpu: float
    simulator_cpu: float | None
    p50: float | None
    p99: float | None


@dataclass
class Row:
    """A case and how it went.

    Attributes:
        case: what was played.
        turns: one for each round.
        head_peak: bytes of memory of the head at most; None if unknown.
        simulator_peak: of the servers.
        failure: why it has no turns, or no more of them.
    """

    case: Case
    turns: list[Turn] = field(default_factory=list)
    head_peak: int | None = None
    simulator_peak: int | None = None
    failure: str = ""

    @property
    def title(self) -> str:
        """The peer's."""
        return peers.find(self.case.peer).title_for(self.case)

    @property
    def envs(self) -> int:
        """Environments that were stepped."""
        return peers.find(self.case.peer).envs or self.case.envs

    def rates(self, metric: str) -> list[float]:
        """A second, in each round; metric: "steps" or "payload"."""
        return [getattr(turn, metric) / turn.seconds for turn in self.turns]

    def median(self, attribute: str) -> float | None:
        """Of a latency, over the rounds; None where there is none."""
        values = [getattr(turn, attribute) for turn in self.turns]
        return statistics.median(values) if values and None not in values else None

    def cpu_per_million(self, attribute: str) -> float | None:
        """CPU seconds for each million steps, of all rounds together."""
        values = [getattr(turn, attribute) for turn in self.turns]
        steps = sum(turn.steps for turn in self.turns)
        return 1e6 * sum(values) / steps if steps and values and None not in values else None

    def ratio(self, base: Row, metric: str) -> float | None:
        """Median over the rounds of this row's rate to that of ``base``."""
        ratios = [
            own / other
            for own, other in zip(self.rates(metric), base.rates(metric), strict=False)
            if other
        ]
        return statistics.median(ratios) if ratios and self.median_rate(metric) else None

    def median_rate(self, metric: str) -> float:
        """Of ``rates``; 0 without turns."""
        rates = self.rates(metric)
        return statistics.median(rates) if rates else 0.0


def base_of(row: Row, rows: Sequence[Row], baseline: Baseline) -> Row | None:
    """The row that a row is compared with; None if there is none."""
    bases = [other for other in rows if baseline.belongs_to(other.case, row.case)]
    return bases[0] if bases else None


@dataclass
class _Player:
    row: Row
    launched: Launched

    def play(self, seconds: float) -> Turn:
        before = Usage.of(self.launched.simulators)
        self.launched.head.say(f"{seconds}")
        told = self.launched.head.hear(seconds + _PATIENCE_SECONDS)
        after = Usage.of(self.launched.simulators)
        served = None
        if self.launched.simulators and before is not None and after is not None:
            served = after.cpu_seconds - before.cpu_seconds
        return Turn(
            told["steps"],
            told["payload"],
            told["seconds"],
            told["cpu"],
            served,
            told["p50"],
            told["p99"],
        )

    def weigh(self) -> None:
        head, served = Usage.of([self.launched.head.pid]), Usage.of(self.launched.simulators)
        self.row.head_peak = head.peak_bytes if head is not None else None
        if self.launched.simulators and served is not None:
            self.row.simulator_peak = served.peak_bytes


def play(
    cases: Sequence[Case],
    rounds: int,
    seconds: float,
    tell: Callable[[str, float], None] = lambda what, done: None,
) -> list[Row]:
    """Starts every case, plays ``rounds`` rounds over all of them in turn, and stops them.

    A case that fails has the reason in its row; the others go on.

    Args:
        cases: what to play.
        rounds: how many are counted.
        seconds: of each turn.
        tell: is called with what is done now, and with how much has been done, 0 to 1.
    """
    rows = [Row(case) for case in cases]
    players: list[_Player] = []
    total = len(cases) * (rounds * seconds + _WARM_UP * seconds + _START_WEIGHT)
    done = 0.0

    def advance(what: str, by: float) -> None:
        nonlocal done
        tell(what, done / total)
        done += by

    with ExitStack() as stack:
        for number, row in enumerate(rows, start=1):
            advance(f"starting {number} of {len(rows)}: {row.case}", _START_WEIGHT)
            try:
                launched = peers.find(row.case.peer).launch(row.case, stack, seconds)
            except FarsimError as error:
                row.failure = str(error)
            else:
                players.append(_Player(row, launched))
        for player in players:
            advance(f"warming up: {player.row.case}", _WARM_UP * seconds)
            _attempt(player, lambda player=player: _begin(player, seconds))  # type: ignore[misc]
        for number in range(1, rounds + 1):
            for player in players:
                advance(f"round {number} of {rounds}: {player.row.case}", seconds)
                _attempt(
                    player,
                    lambda player=player: player.row.turns.append(player.play(seconds)),  # type: ignore[misc]
                )
        for player in players:
            player.weigh()
            player.launched.head.leave()  # All at once, before each is waited for.
        tell("stopping", 1.0)
    return rows


#: Seconds that starting a row counts for, in what is told of the progress.
_START_WEIGHT = 2.0


def _begin(player: _Player, seconds: float) -> None:
    player.launched.head.hear(START_SECONDS)
    if player.launched.later is not None:
        player.launched.later()
    player.play(_WARM_UP * seconds)


def _attempt(player: _Player, action: Callable[[], object]) -> None:
    if player.row.failure:
        return
    try:
        action()
    except FarsimError as error:
        player.row.failure = str(error)
