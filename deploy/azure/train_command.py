"""The command that a job runs: ``farsim train`` with what a deployment says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.schema import Deployment, Training
from farsim import addresses as address_lists
from farsim.errors import InvalidArgument

#: The folder in a job whose files Azure ML keeps.
OUTPUTS = "outputs"
#: Inputs of the job.
FILES, RESUME = "files", "resume"

_TRAINING_FILE = "training.yaml"
#: What a connection's files are called in the input, and which flag of the command takes them.
_CONNECTION_FILES = {
    "tls_ca": ("ca.pem", "--tls-ca"),
    "tls_cert": ("client.pem", "--tls-cert"),
    "tls_key": ("client-key.pem", "--tls-key"),
    "token_file": ("token", "--token-file"),
}
#: Flags that follow from other keys of a deployment.
_OWN_FLAGS = {
    "--sims": "training.sims, or simulators",
    "--deployment": "simulators",
    "--config": "training.config",
    "--resume": "training.resume",
    "--out": f"nothing: it is always {OUTPUTS}",
    "--checkpoint": f"nothing: they are always in {OUTPUTS}/checkpoints",
    "--stop-return": "training.stop.return",
    "--stop-steps": "training.stop.steps",
    "--stop-time": "training.stop.time",
    "--wait-seconds": "training.coordination_seconds",
    "--ray-address": "head.nodes",
    "--ray-nodes": "head.nodes",
    "--tls-ca": "simulators.tls, or training.tls",
    "--tls-cert": "simulators.tls, or training.tls",
    "--tls-key": "simulators.tls, or training.tls",
    "--tls-server-name": "simulators.tls, or training.tls",
    "--token-file": "simulators.tls, or training.tls",
}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class TrainCommand:
    """``farsim train``, as the head's first node calls it.

    Args:
        deployment: with sections ``head`` and ``training``.
        addresses: of the simulators' servers.
        connection: how to reach them: fields of ``farsim.channel.ConnectionOptions``; the files
            are here, and come to the job as its input ``files``.

    Raises:
        InvalidArgument: there are no addresses, or the deployment's ``training`` contradicts
            itself; says which key is to be changed.
    """

    deployment: Deployment
    addresses: Sequence[str]
    connection: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.addresses:
            raise InvalidArgument(
                "there are no simulators to train on: 'farsim deploy aci up' starts those of the "
                "deployment, or training.sims names others",
                "training",
            )
        address_lists.expand(",".join(self.addresses))
        _check(self.training)

    @property
    def training(self) -> Training:
        """The deployment's section.

        Raises:
            InvalidArgument: it has none.
        """
        if self.deployment.training is None:
            raise InvalidArgument(
                "the deployment says nothing of training: add a section 'training' with the "
                "simulator",
                "training",
            )
        return self.deployment.training

    @property
    def files(self) -> dict[str, bytes]:
        """What comes to the job as its input ``files``, by name.

        Raises:
            InvalidArgument: one of them cannot be read.
        """
        paths = {name: Path(self.connection[key]) for key, name in self._connection_files()}
        if self.training.config is not None:
            paths[_TRAINING_FILE] = self.training.config
        contents = {}
        for name, path in paths.items():
            try:
                contents[name] = path.read_bytes()
            except OSError as error:
                raise InvalidArgument(
                    f"cannot read {path}, which the job needs: {error.strerror}", str(path)
                ) from error
        return contents

    @property
    def line(self) -> str:
        """What the job's shell runs, with Azure ML's placeholders for its inputs."""
        assert self.deployment.head is not None
        training, nodes = self.training, self.deployment.head.nodes
        arguments = ["farsim", "train", training.simulator]
        arguments += ["--sims", ",".join(self.addresses), "--out", OUTPUTS]
        arguments += ["--wait-seconds", str(training.coordination_seconds)]
        if nodes > 1:
            arguments += ["--ray-address", "auto", "--ray-nodes", str(nodes)]
        if training.config is not None:
            arguments += ["--config", _input(FILES, _TRAINING_FILE)]
        if training.resume:
            arguments += ["--resume", _input(RESUME)]
        stop = {
            "--stop-return": training.stop.reward,
            "--stop-steps": training.stop.steps,
            "--stop-time": None if training.stop.time is None else seconds(training.stop.time),
        }
        for flag, value in stop.items():
            if value is not None:
                arguments += [flag, f"{value:.17g}"]
        for key, name in self._connection_files():
            arguments += [_CONNECTION_FILES[key][1], _input(FILES, name)]
        if self.connection.get("tls_server_name"):
            arguments += ["--tls-server-name", self.connection["tls_server_name"]]
        arguments += training.arguments
        return " ".join(map(_quoted, arguments))

    def _connection_files(self) -> list[tuple[str, str]]:
        return [
            (key, name) for key, (name, _) in _CONNECTION_FILES.items() if key in self.connection
        ]


def seconds(time: str | float) -> float:
    """``90``, "90", "90s", "30m", "12h" or "2d" in seconds.

    Raises:
        InvalidArgument: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([smhd]?)\s*", str(time))
    if not found or float(found[1]) <= 0:
        raise InvalidArgument(
            f"training.stop.time is '{time}', but is to be seconds, or as 90m, 12h or 2d",
            "training.stop.time",
        )
    return float(found[1]) * _UNITS[found[2] or "s"]


def _check(training: Training) -> None:
    for argument in training.arguments:
        key = _OWN_FLAGS.get(argument.partition("=")[0])
        if key:
            raise InvalidArgument(
                f"training.arguments has '{argument}', which follows from {key}",
                "training.arguments",
            )
        if "${{" in argument:
            raise InvalidArgument(
                f"training.arguments has '{argument}', which Azure ML would take for a "
                "placeholder of its own",
                "training.arguments",
            )
    limit = training.time_limit_seconds
    if training.coordination_seconds >= limit:
        raise InvalidArgument(
            f"Azure would end the job after {limit} s (training.time_limit_seconds), while it may "
            f"wait for simulators for {training.coordination_seconds} s "
            "(training.coordination_seconds): make the first the greater",
            "training.time_limit_seconds",
        )
    if training.stop.time is not None and seconds(training.stop.time) >= limit:
        raise InvalidArgument(
            f"Azure would end the job after {limit} s (training.time_limit_seconds), before "
            f"training.stop.time ({training.stop.time}) is over and the last checkpoint saved: "
            "make the first the greater",
            "training.time_limit_seconds",
        )


def _input(name: str, file: str = "") -> str:
    return f"${{{{inputs.{name}}}}}" + (f"/{file}" if file else "")


def _quoted(argument: str) -> str:
    # Azure ML puts a path there before the shell reads it.
    if argument.startswith("${{inputs."):
        return f'"{argument}"'
    return shlex.quote(argument)
