"""What a server measures of itself, for Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1, 2.5, 10, 60)
_LABELS = ["simulator"]


class Account:
    """What sessions of one simulator have done.

    Plain numbers, since they change with every request; a scrape makes Prometheus's of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.steps = 0
        self.step_seconds = 0.0
        self.codec_seconds = 0.0
        self.faults = 0
        #: Step requests by the time that they took in the simulator; the last are beyond bounds.
        self.requests = [0] * (len(_SECONDS) + 1)

    def stepped(self, environments: int, step_seconds: float, codec_seconds: float) -> None:
        with self._lock:
            self.steps += environments
            self.step_seconds += step_seconds
            self.codec_seconds += codec_seconds
            self.requests[bisect_left(_SECONDS, step_seconds)] += 1

    def fault(self) -> None:
        with self._lock:
            self.faults += 1


class Metrics(Collector):
    """Counters of one server process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Gauge("farsim_sessions", "Open sessions", _LABELS, registry=self.registry)
        self.environments = Gauge(
            "farsim_environments", "Environments of open sessions", _LABELS, registry=self.registry
        )
        self._accounts: dict[str, Account] = {}
        self._lock = threading.Lock()
        self._received = self._sent = 0
        self.registry.register(self)

    def account(self, simulator: str) -> Account:
        """Where sessions of a simulator count."""
        return self._accounts.setdefault(simulator, Account())

    def moved(self, received: int, sent: int) -> None:
        with self._lock:
            self._received += received
            self._sent += sent

    def collect(self) -> Iterator[Metric]:
        """What the accounts say now, for a scrape."""
        steps = CounterMetricFamily(
            "farsim_environment_steps", "Steps, one for each environment", labels=_LABELS
        )
        seconds = HistogramMetricFamily(
            "farsim_step_seconds", "Time in the simulator for one step request", labels=_LABELS
        )
        codec = CounterMetricFamily(
            "farsim_codec_seconds",
            "Time to decode step requests and build replies",
            labels=_LABELS,
        )
        faults = CounterMetricFamily("farsim_faults", "Environments that failed", labels=_LABELS)
        for name, account in list(self._accounts.items()):
            steps.add_metric([name], account.steps)
            codec.add_metric([name], account.codec_seconds)
            faults.add_metric([name], account.faults)
            bounds = [*map(str, _SECONDS), "+Inf"]
            counts = accumulate(account.requests)
            seconds.add_metric([name], list(zip(bounds, counts, strict=True)), account.step_seconds)
        moved = CounterMetricFamily(
            "farsim_bytes", "Bytes of session messages", labels=["direction"]
        )
        moved.add_metric(["received"], self._received)
        moved.add_metric(["sent"], self._sent)
        return iter((steps, seconds, codec, faults, moved))
