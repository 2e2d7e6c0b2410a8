"""What a server of policies measures of itself."""

from __future__ import annotations

from collections.abc import Sequence

_SECONDS = (2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counts nothing: for servers whose metrics nobody asks for."""

    def sessions(self, change: int) -> None:
        """Live sessions have been opened or closed."""

    def episodes(self, change: int) -> None:
        """Live episodes have started or ended."""

    def queued(self, queries: int) -> None:
        """So many observations wait for a forward pass now."""

    def inferred(self, policy: str, rows: int, seconds: float) -> None:
        """One forward pass is done."""

    def answered(self, policy: str, seconds: Sequence[float]) -> None:
        """Actions are on their way, so long after their observations arrived."""

    def refused(self, code: str) -> None:
        """An event or call got an error of this code."""


class PrometheusMetrics(Metrics):
    """Counters of one server process, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry = CollectorRegistry()
        self._sessions = Gauge("farsim_live_sessions", "Open live sessions", registry=registry)
        self._episodes = Gauge("farsim_live_episodes", "Live episodes that run", registry=registry)
        self._queue = Gauge(
            "farsim_policy_queue", "Observations that wait for a batch", registry=registry
        )
        self._rows = Histogram(
            "farsim_policy_batch_rows",
            "Observations in one forward pass",
            ["policy"],
            buckets=_ROWS,
            registry=registry,
        )
        self._forward = Histogram(
            "farsim_policy_forward_seconds",
            "Time of one forward pass",
            ["policy"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._latency = Histogram(
            "farsim_policy_action_seconds",
            "From an observation's arrival to its action; its count is that of actions",
            ["policy"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._errors = Counter(
            "farsim_policy_errors",
            "Events and calls that got an error",
            ["code"],
            registry=registry,
        )

    def sessions(self, change: int) -> None:
        self._sessions.inc(change)

    def episodes(self, change: int) -> None:
        self._episodes.inc(change)

    def queued(self, queries: int) -> None:
        self._queue.set(queries)

    def inferred(self, policy: str, rows: int, seconds: float) -> None:
        self._rows.labels(policy).observe(rows)
        self._forward.labels(policy).observe(seconds)

    def answered(self, policy: str, seconds: Sequence[float]) -> None:
        histogram = self._latency.labels(policy)
        for one in seconds:
            histogram.observe(one)

    def refused(self, code: str) -> None:
        self._errors.labels(code).inc()
