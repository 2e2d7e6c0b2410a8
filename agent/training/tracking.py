"""A training run in MLflow: parameters, tags, and after each iteration what TensorBoard gets.

Azure Machine Learning shows its jobs' metrics from there. MLflow's own variables say where it is:
``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and, where a run has begun already as in a job
of Azure ML, ``MLFLOW_RUN_ID``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from agent.training.iteration import Iteration
from farsim.errors import FarsimError

#: In a run's folder, where no other place is named.
FOLDER = "mlruns"

#: Of a run's description.
_PARAMETERS = ("simulator", "algo", "seed", "options", "stop", "settings")
_EXPERIMENT = "farsim"
#: Bounds of MLflow and, for the text, of Azure ML.
_BATCH, _LONGEST_VALUE, _LONGEST_KEY = 100, 500, 250
#: Metrics that could not be sent and are tried again, at most.
_KEPT = 10_000
#: A store that is away for minutes must not stop training for as long.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
#: What is not a metric but what metrics are plotted over.
_AXES = ("iteration", "steps")


class TrackingUnavailable(FarsimError, RuntimeError):
    """MLflow is not installed, or its store does not take the run."""


def is_expected() -> bool:
    """Whether this is where somebody looks for metrics in MLflow: a job, or a server is named."""
    return bool(os.environ.get("AZUREML_RUN_ID") or os.environ.get("MLFLOW_TRACKING_URI"))


class Tracking:
    """One run in MLflow.

    What goes wrong once training is under way is told, and ends nothing: metrics that could not be
    sent go with the next ones.

    Args:
        folder: the run's, for a store of files where ``MLFLOW_TRACKING_URI`` is not set.
        name: of the run, if it is begun here.
        parameters: of any depth; those of mappings are named "outer.inner".
        tags: by name.
        tell: called with a line when the store does not answer.

    Raises:
        TrackingUnavailable: MLflow is not installed, or its store does not take the run.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise TrackingUnavailable(
                "--mlflow needs MLflow: pip install 'farsim[mlflow]'",
                "--mlflow",
            )
        for variable, value in _PATIENCE.items():
            os.environ.setdefault(variable, value)
        named = os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = _reachable(named) if named else (folder / FOLDER).absolute().as_uri()
        if re.match(r"file:|[^:]*$", self.uri):
            # Since 3.11 MLflow wants to hear that files, rather than a database, are meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._tell = tell
        self._pending: list[Any] = []
        self._has_told = False
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        begun = os.environ.get("MLFLOW_RUN_ID") or os.environ.get("AZUREML_RUN_ID")
        #: Whoever began a run ends it.
        self._is_ours = not begun
        try:
            self._client = MlflowClient(tracking_uri=self.uri)
            self.run_id = begun or self._begin(name)
            params = [Param(_key(key), value) for key, value in _flat(parameters)]
            run_tags = [RunTag(_key(key), value[:_LONGEST_VALUE]) for key, value in tags.items()]
            for first in range(0, max(len(params), 1), _BATCH):
                batch = params[first : first + _BATCH]
                self._client.log_batch(self.run_id, params=batch, tags=run_tags)
        except Exception as error:  # Stores are plug-ins, and raise what they like.
            raise TrackingUnavailable(
                f"MLflow does not take the run at {self.uri}: {_said(error)}. Look at "
                "MLFLOW_TRACKING_URI, or train without (--no-mlflow)",
                self.uri,
            ) from error

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._send()
        if not self._is_ours:
            return
        try:
            self._client.set_terminated(self.run_id, "FINISHED" if kind is None else "FAILED")
        except Exception as failure:
            self._fail(failure)

    def add(self, iteration: Iteration) -> None:
        """Logs one iteration, over environment steps."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._pending += [
            Metric(_key(name if "/" in name else f"train/{name}"), value, now, iteration.steps)
            for name, value in iteration.columns().items()
            if name not in _AXES and math.isfinite(value)
        ]
        self._send()

    def _begin(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if not experiment:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
            found = self._client.get_experiment_by_name(title)
            experiment = (
                found.experiment_id if found is not None else self._client.create_experiment(title)
            )
        return str(self._client.create_run(experiment, run_name=name).info.run_id)

    def _send(self) -> None:
        try:
            while self._pending:
                self._client.log_batch(self.run_id, metrics=self._pending[:_BATCH])
                del self._pending[:_BATCH]
            self._has_told = False
        except Exception as error:
            self._fail(error)
            del self._pending[:-_KEPT]

    def _fail(self, error: Exception) -> None:
        if not self._has_told:
            self._tell(f"MLflow takes no metrics at the moment: {_said(error)}")
        self._has_told = True


def tracked(
    wish: bool | None, folder: Path, description: Mapping[str, Any], console: Console
) -> contextlib.AbstractContextManager[Tracking | None]:
    """The run in MLflow if it is to go there; as a context, it ends the run.

    Args:
        wish: whether it is; None for where that is expected, and possible.
        folder: the run's.
        description: of the run, as in its ``run.json``.
        console: where to tell about it.

    Raises:
        TrackingUnavailable: it is wished, but cannot be.
    """
    if not (is_expected() if wish is None else wish):
        return contextlib.nullcontext()

    def tell(text: str) -> None:
        console.print(text, style="yellow", markup=False, soft_wrap=True)

    tags = {"farsim.servers": ", ".join(description["servers"])}
    tags |= {f"farsim.version.{name}": str(v) for name, v in description["versions"].items()}
    parameters = {name: description[name] for name in _PARAMETERS}
    try:
        tracking = Tracking(folder, folder.name, parameters, tags, tell)
    except TrackingUnavailable as error:
        if wish:
            raise
        # Training is what costs, and nobody has asked for this by name.
        tell(f"no MLflow: {error.message}")
        return contextlib.nullcontext()
    console.print(f"MLflow      run {tracking.run_id} at {tracking.uri}", soft_wrap=True)
    return tracking


def _reachable(uri: str) -> str:
    """What MLflow itself makes of the address that Azure ML gives its jobs.

    Behind it is MLflow's own REST interface, which takes the job's ``MLFLOW_TRACKING_TOKEN``. The
    package ``azureml-mlflow``, where it is installed, knows the address as it is.
    """
    prefix = "azureml://"
    if uri.startswith(prefix) and importlib.util.find_spec("azureml") is None:
        token = os.environ.get("AZUREML_RUN_TOKEN")
        if token:
            os.environ.setdefault("MLFLOW_TRACKING_TOKEN", token)
        return f"https://{uri.removeprefix(prefix)}"
    return uri


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            rows.append((f"{prefix}{name}", text[:_LONGEST_VALUE]))
    return rows


def _key(name: str) -> str:
    """With what MLflow takes in names, and nothing else."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:_LONGEST_KEY]


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
