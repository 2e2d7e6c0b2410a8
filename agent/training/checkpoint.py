"""Checkpoint folders: RLlib's own, with what it takes to use them next to it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import json_format
from gymnasium import Space

from farsim import spaces
from farsim.errors import FarsimError
from farsim.v1 import space_pb2

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

#: In each checkpoint folder.
MANIFEST = "farsim.json"
#: In a run's folder: a file with the name of the latest checkpoint's folder.
POINTER = "checkpoint"

#: Where RLlib keeps an algorithm's modules in a checkpoint, each in a folder of its name.
_MODULES = Path("learner_group", "learner", "rl_module")
#: RLlib's name of the only module of a single-agent algorithm.
_ONLY_MODULE = "default_policy"

#: Of a checkpoint for one agent, and of one for several.
_SINGLE_AGENT, _MULTI_AGENT = 1, 2


class InvalidCheckpoint(FarsimError, ValueError):
    """A folder that is no checkpoint of Farsim, or one of another format."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint was trained for, and how.

    With several agents, which is where there are ``groups``, the spaces are ``Dict`` spaces with
    one entry for each agent, and the mask, if there is one, is in the entries of those that have
    it.

    Attributes:
        simulator: its name on the server.
        options: those that were chosen; a session needs no others.
        session_options: the value of every parameter.
        algo: RLlib's name of the algorithm.
        settings: of the algorithm, by section and name, as in a training file.
        observation_space: of one environment, with the action mask if there is one.
        action_space: of one environment.
        action_mask: whether the observation carries the simulator's mask.
        iteration: RLlib's training iterations until here.
        steps: environment steps until here.
        seed: of the training.
        versions: of the programs, by name.
        groups: with several agents, their names by group, in the order of the simulator's arrays;
            else empty.
        policies: with several agents, the policy of each; else empty.
    """

    simulator: str
    options: Mapping[str, Any]
    session_options: Mapping[str, Any]
    algo: str
    settings: Mapping[str, Mapping[str, Any]]
    observation_space: Space[Any]
    action_space: Space[Any]
    action_mask: bool
    iteration: int
    steps: int
    seed: int | None
    versions: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_multi_agent(self) -> bool:
        """Whether there are agents with policies of their own."""
        return bool(self.groups)

    def to_json(self) -> dict[str, Any]:
        """For ``farsim.json``: spaces as in the proto, arrays as lists."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("observation_space", "action_space"):
            fields[name] = json_format.MessageToDict(spaces.to_proto(fields[name]))
        digest = spaces.digest(self.observation_space, self.action_space)
        number = _MULTI_AGENT
        if not self.is_multi_agent:
            number = _SINGLE_AGENT
            del fields["groups"], fields["policies"]
        return {"format": number, **plain(fields), "spaces_digest": digest}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Manifest:
        document = {"groups": {}, "policies": {}, **document}
        fields = {name: unplain(document[name]) for name in cls.__dataclass_fields__}
        for name in ("observation_space", "action_space"):
            message = json_format.ParseDict(fields[name], space_pb2.Space())
            fields[name] = spaces.from_proto(message)
        fields["groups"] = {name: tuple(agents) for name, agents in fields["groups"].items()}
        return cls(**fields)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        path: its folder.
        manifest: what it was trained for.
    """

    path: Path
    manifest: Manifest

    @property
    def module_path(self) -> Path:
        """The folder that ``RLModule.from_checkpoint`` takes, with one agent."""
        return self.path / _MODULES / _ONLY_MODULE

    @property
    def module_paths(self) -> dict[str, Path]:
        """With several agents, those folders by policy."""
        names = dict.fromkeys(self.manifest.policies.values())
        return {name: self.path / _MODULES / name for name in names}


def save(algorithm: Algorithm, manifest: Manifest, folder: Path, name: str) -> Path:
    """Writes a checkpoint to ``folder / name``, which is there in full or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    target, unfinished = folder / name, folder / f".{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    algorithm.save_to_path(str(unfinished.absolute()))
    text = json.dumps(manifest.to_json(), indent=2)
    (unfinished / MANIFEST).write_text(text + "\n", encoding="utf-8")
    _save_policies(unfinished, manifest)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    return target


def _save_policies(folder: Path, manifest: Manifest) -> None:
    """Adds what serving needs, which is free of pickle; or says why it cannot be."""
    # They need RLlib, and this module does not otherwise.
    from agent.policy import portable, rllib_checkpoint

    try:
        portable.write(rllib_checkpoint.read(folder, manifest), folder / portable.FOLDER)
    except FarsimError as error:
        portable.write_reason(error.message, folder / portable.FOLDER)


def point_to(run_folder: Path, checkpoint: Path) -> None:
    """Makes ``run_folder / "checkpoint"`` name the latest checkpoint."""
    new = run_folder / f".{POINTER}.new"
    new.write_text(os.path.relpath(checkpoint, run_folder) + "\n", encoding="utf-8")
    new.replace(run_folder / POINTER)


def find(path: Path) -> Checkpoint:
    """The checkpoint at ``path``: its folder, its run's folder, or the pointer in that.

    Raises:
        InvalidCheckpoint: there is none; says what is there instead.
    """
    folder = path
    pointer = path / POINTER if path.is_dir() else path
    if pointer.is_file():
        folder = pointer.parent / pointer.read_text(encoding="utf-8").strip()
    if not path.exists():
        raise InvalidCheckpoint(f"there is nothing at {path}", str(path))
    if not (folder / MANIFEST).is_file():
        raise InvalidCheckpoint(
            f"{folder} is no checkpoint of farsim train: it has no {MANIFEST}. Name a run's "
            f"folder, or one in its 'checkpoints'",
            str(path),
        )
    return Checkpoint(folder, _read(folder / MANIFEST))


def _read(path: Path) -> Manifest:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["format"]
        if found in (_SINGLE_AGENT, _MULTI_AGENT):
            return Manifest.from_json(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidCheckpoint(f"{path} is damaged: {error!r}", str(path)) from error
    raise InvalidCheckpoint(
        f"{path} has format {found}, this Farsim reads {_SINGLE_AGENT} and {_MULTI_AGENT}: use the "
        "version that wrote it",
        str(path),
    )


def versions() -> dict[str, str]:
    """Of what a checkpoint depends on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import farsim

    found = {"farsim": farsim.__version__, "python": platform.python_version()}
    for package in ("ray", "torch", "gymnasium", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


#: JSON has no such numbers; these are YAML's names for them.
_NON_FINITE = {math.inf: ".inf", -math.inf: "-.inf"}
_FROM_TEXT = {text: number for number, text in _NON_FINITE.items()} | {".nan": math.nan}


def plain(value: Any) -> Any:
    """``value`` in JSON's types.

    NumPy's numbers and arrays become numbers and lists, and infinities and NaN text as in YAML.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(member) for member in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return _NON_FINITE.get(value, ".nan")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def unplain(value: Any) -> Any:
    """What ``plain`` made of infinities and NaN, back in numbers."""
    if isinstance(value, dict):
        return {key: unplain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [unplain(member) for member in value]
    if isinstance(value, str):
        return _FROM_TEXT.get(value, value)
    return value
