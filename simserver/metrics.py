"""What a server measures of itself, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1, 2.5, 10, 60)


class Metrics:
    """Counters of one server process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["simulator"]
        self.sessions = Gauge("farsim_sessions", "Open sessions", labels, registry=self.registry)
        self.environments = Gauge(
            "farsim_environments", "Environments of open sessions", labels, registry=self.registry
        )
        self._steps = Counter(
            "farsim_environment_steps",
            "Steps, one for each environment",
            labels,
            registry=self.registry,
        )
        self._step_seconds = Histogram(
            "farsim_step_seconds",
            "Time in the simulator for one step request",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._codec_seconds = Counter(
            "farsim_codec_seconds",
            "Time to decode step requests and build replies",
            labels,
            registry=self.registry,
        )
        self._faults = Counter(
            "farsim_faults", "Environments that failed", labels, registry=self.registry
        )
        bytes_counter = Counter(
            "farsim_bytes", "Bytes of session messages", ["direction"], registry=self.registry
        )
        self._received = bytes_counter.labels("received")
        self._sent = bytes_counter.labels("sent")

    def stepped(
        self, simulator: str, environments: int, step_seconds: float, codec_seconds: float
    ) -> None:
        self._steps.labels(simulator).inc(environments)
        self._step_seconds.labels(simulator).observe(step_seconds)
        self._codec_seconds.labels(simulator).inc(codec_seconds)

    def fault(self, simulator: str) -> None:
        self._faults.labels(simulator).inc()

    def moved(self, received: int, sent: int) -> None:
        self._received.inc(received)
        self._sent.inc(sent)
