"""What ``farsim policy`` runs behind its server: versions, watching, recording."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agent.policy import loading
from agent.policy.audit import open_audit
from agent.policy.inference import CheckpointInference, check_same
from agent.policy.loading import Source
from agent.policy.recipe import Recipe
from agent.policy.recording import Recorder, RecordingSink
from agent.policy.watching import Watcher
from agent.training.checkpoint import InvalidCheckpoint
from farsim.errors import FarsimError

log = logging.getLogger(__name__)


class NoSuchDevice(FarsimError, ValueError):
    """A device that torch does not have here."""


@dataclass(frozen=True)
class Settings:
    """What to serve.

    Attributes:
        checkpoint: as at ``loading.find``.
        trust: whether checkpoints may be unpickled.
        keep: versions that can be asked for.
        device: "auto", "cpu" or "cuda".
        watch: whether newer checkpoints are taken into service.
        watch_seconds: between looks.
        shadow: a second checkpoint, that is asked too and not listened to.
        audit: where to log what is decided.
    """

    checkpoint: Path
    trust: bool = False
    keep: int = 2
    device: str = "auto"
    watch: bool = False
    watch_seconds: float = 1.0
    shadow: Path | None = None
    audit: Path | None = None


class PolicyRuntime:
    """The policies of a checkpoint, with all that goes on around them.

    Args:
        settings: what to serve.

    Attributes:
        inference: whom a server asks.
        sink: whom a server tells of live sessions; None if nobody wants to know.
        source: the checkpoint that it began with.
        device: "cpu" or "cuda".
        recorder: what writes the log and asks the shadow, if there is one.

    Raises:
        InvalidCheckpoint: a checkpoint is not there, or cannot be loaded.
        SpaceMismatch: the shadow is for other spaces; says where they differ.
        NoSuchDevice: torch has no such device here.
        InvalidAudit: the log cannot be written.
    """

    def __init__(self, settings: Settings) -> None:
        self.device = device_of(settings.device)
        self.source, recipe = _load(settings.checkpoint, settings.trust)
        versions = CheckpointInference(recipe, settings.keep, self.device)
        self._shadow = None
        if settings.shadow is not None:
            _, shadow = _load(settings.shadow, settings.trust)
            self._shadow = CheckpointInference(shadow, 1, self.device)
            check_same(versions.current, self._shadow.current)
        self.inference = versions
        self.sink: RecordingSink | None = None
        self.recorder: Recorder | None = None
        if settings.audit is not None or self._shadow is not None:
            audit = open_audit(settings.audit) if settings.audit is not None else None
            self.recorder = Recorder(audit, self._shadow)
            self.sink = RecordingSink(self.recorder)
        self.watcher: Watcher | None = None
        if settings.watch:
            self.watcher = Watcher(
                settings.checkpoint,
                self.source,
                versions.add,
                settings.trust,
                settings.watch_seconds,
            )

    def start(self) -> None:
        """Begins to watch, if that is wanted."""
        if self.watcher is not None:
            self.watcher.start()

    def close(self) -> None:
        """Stops watching, and ends the log. Nobody may be asking any more."""
        if self.watcher is not None:
            self.watcher.stop()
        if self.recorder is not None:
            self.recorder.close()

    def add_metrics(self, registry: Any) -> None:
        """Adds figures of its own to a registry of ``prometheus_client``."""
        from prometheus_client import Gauge

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(name, text, registry=registry).set_function(value)

        versions, watcher, recorder = self.inference, self.watcher, self.recorder
        gauge(
            "farsim_policy_version",
            "The version that answers",
            lambda: float(versions.current.number),
        )
        if watcher is not None:
            gauge(
                "farsim_policy_checkpoints_refused",
                "Newer checkpoints that could not be used",
                lambda: float(watcher.failures),
            )
        if recorder is not None:
            gauge(
                "farsim_policy_audit_missed",
                "Decisions that are not in the audit log",
                lambda: float(recorder.missed),
            )
            gauge(
                "farsim_policy_shadow_compared",
                "Decisions that the shadow was asked about",
                lambda: float(recorder.compared),
            )
            gauge(
                "farsim_policy_shadow_agreed",
                "Decisions on which the shadow would have done the same",
                lambda: float(recorder.agreed),
            )


def device_of(name: str) -> str:
    """Torch's name of a device.

    Raises:
        NoSuchDevice: torch has none of that name here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise NoSuchDevice(
            "torch finds no GPU here: install a CUDA build of it, or say --device cpu", name
        )
    return name


def _load(path: Path, trust: bool) -> tuple[Source, Recipe]:
    source = loading.find(path)
    recipe = loading.load(source, trust)
    if not recipe.policies:
        raise InvalidCheckpoint(f"{source.folder} has no policies", str(path))
    return source, recipe
