"""A checkpoint's policies on disk, for serving: JSON and arrays, no pickle.

``policy/`` in a checkpoint holds ``policy.json``, which says everything but the numbers, and
``arrays.npz`` with those. Reading it runs no code that it contains: networks are made from classes
that are installed anyway, by name.
"""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from gymnasium import Space
from numpy.typing import NDArray
from ray.rllib.core.rl_module.rl_module import RLModule

from agent.models.encoding import Encoding
from agent.policy import preprocessing
from agent.policy.preprocessing import Step
from agent.policy.recipe import ModuleRecipe, NotPortable, PolicyRecipe, Recipe
from agent.training.checkpoint import InvalidCheckpoint, plain, unplain
from farsim import spaces
from farsim.v1 import space_pb2

#: In a checkpoint's folder.
FOLDER = "policy"
DOCUMENT = "policy.json"
_ARRAYS = "arrays.npz"
_FORMAT = 1

#: Packages whose networks may be named in a file.
_ALLOWED = (
    "ray.rllib.algorithms.",
    "ray.rllib.core.",
    "agent.models.",
    "agent.maddpg.",
    "agent.mappo.",
)


def write(recipe: Recipe, folder: Path) -> None:
    """Writes the policies to ``folder``, which must not be there.

    Raises:
        NotPortable: says what can not be written without pickle. Nothing is left then.
    """
    arrays: dict[str, NDArray[Any]] = {}
    document = {
        "format": _FORMAT,
        "iteration": recipe.iteration,
        "steps": recipe.steps,
        "algo": recipe.algo,
        "modules": {
            name: _module_to_json(name, module, arrays) for name, module in recipe.modules.items()
        },
        "policies": [
            _policy_to_json(index, policy, arrays) for index, policy in enumerate(recipe.policies)
        ],
    }
    text = json.dumps(document, indent=2, allow_nan=False)
    folder.mkdir(parents=True)
    with (folder / _ARRAYS).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    (folder / DOCUMENT).write_text(text + "\n", encoding="utf-8")


def write_reason(reason: str, folder: Path) -> None:
    """Says in ``folder`` why there are no policies in it."""
    folder.mkdir(parents=True)
    text = json.dumps({"format": _FORMAT, "unavailable": reason}, indent=2)
    (folder / DOCUMENT).write_text(text + "\n", encoding="utf-8")


def read(folder: Path, origin: str = "") -> Recipe:
    """The policies in ``folder``.

    Args:
        folder: what ``write`` wrote.
        origin: what to call the checkpoint; the folder otherwise.

    Raises:
        InvalidCheckpoint: it is damaged, of another format, or names a network that is not
            installed here.
        NotPortable: it only says why there are no policies in it.
    """
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise InvalidCheckpoint(
                f"{path} has format {document['format']}, this Farsim reads {_FORMAT}: use the "
                "version that wrote it",
                str(path),
            )
        if "unavailable" in document:
            raise NotPortable(str(document["unavailable"]), str(path))
        with np.load(folder / _ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return Recipe(
            modules={
                name: _module_from_json(name, module, arrays)
                for name, module in document["modules"].items()
            },
            policies=[
                _policy_from_json(index, policy, arrays)
                for index, policy in enumerate(document["policies"])
            ],
            iteration=int(document["iteration"]),
            steps=int(document["steps"]),
            origin=origin or str(folder),
            algo=str(document["algo"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, (InvalidCheckpoint, NotPortable)):
            raise
        raise InvalidCheckpoint(f"{folder} is damaged: {error!r}", str(folder)) from error


# -- networks ---------------------------------------------------------------------------------


def _module_to_json(
    name: str, module: ModuleRecipe, arrays: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    for key, weight in module.weights.items():
        arrays[f"module/{name}/{key}"] = np.asarray(weight)
    return {
        "class": _name_of(module.module_class),
        "catalog": _name_of(module.catalog_class) if module.catalog_class is not None else None,
        "observation_space": _space_to_json(module.observation_space),
        "action_space": _space_to_json(module.action_space),
        "model_config": _settings(name, module.model_config),
    }


def _module_from_json(
    name: str, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> ModuleRecipe:
    catalog = document["catalog"]
    return ModuleRecipe(
        module_class=_class_of(document["class"]),
        catalog_class=_class_of(catalog) if catalog is not None else None,
        observation_space=_space_from_json(document["observation_space"]),
        action_space=_space_from_json(document["action_space"]),
        model_config=unplain(document["model_config"]),
        weights=_under(f"module/{name}/", arrays),
    )


def _name_of(cls: type) -> str:
    name = f"{cls.__module__}:{cls.__qualname__}"
    if not name.startswith(_ALLOWED):
        raise NotPortable(
            f"{name} is a class of your own, and only RLlib's and Farsim's networks are looked up "
            "by name",
            name,
        )
    return name


def _class_of(name: str) -> type:
    if not name.startswith(_ALLOWED):
        raise InvalidCheckpoint(
            f"{name} is none of the networks that a checkpoint may name: those of RLlib and Farsim",
            name,
        )
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidCheckpoint(
            f"{name} is not installed: use the versions of Farsim and Ray that wrote the "
            f"checkpoint ({error})",
            name,
        ) from error
    if not (isinstance(found, type) and _is_network(found)):
        raise InvalidCheckpoint(f"{name} is no network", name)
    return found


def _is_network(cls: type) -> bool:
    from ray.rllib.core.models.catalog import Catalog

    return issubclass(cls, (RLModule, Catalog))


def _settings(name: str, model_config: Mapping[str, Any]) -> Any:
    settings = plain(dict(model_config))
    if not _equal(unplain(settings), dict(model_config)):
        raise NotPortable(
            f"the model_config of network '{name}' holds more than numbers, names and lists of "
            "those",
            name,
        )
    return settings


def _equal(one: Any, other: Any) -> bool:
    """Whether two settings are the same but for tuples and lists."""
    if isinstance(other, Mapping):
        return (
            isinstance(one, dict)
            and one.keys() == other.keys()
            and all(_equal(one[key], other[key]) for key in one)
        )
    if isinstance(other, (list, tuple)):
        return (
            isinstance(one, list)
            and len(one) == len(other)
            and all(_equal(a, b) for a, b in zip(one, other, strict=True))
        )
    if isinstance(other, (np.ndarray, np.generic)):
        return _equal(one, other.tolist())
    return bool(one == other and isinstance(other, (str, int, float, bool, type(None))))


# -- policies ---------------------------------------------------------------------------------


def _policy_to_json(
    index: int, policy: PolicyRecipe, arrays: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    if policy.pipeline is not None:
        raise NotPortable(
            f"the connectors {', '.join(policy.pipeline.own)} are your own: they can only be "
            "unpickled, and served from RLlib's checkpoint",
            policy.pipeline.own[0],
        )
    for number, step in enumerate(policy.steps):
        for key, array in step.arrays().items():
            arrays[f"policy/{index}/{number}/{key}"] = array
    return {
        "name": policy.name,
        "module": policy.module,
        "agents": list(policy.agents),
        "observation_space": _space_to_json(policy.observation_space),
        "action_space": _space_to_json(policy.action_space),
        "is_encoded": policy.is_encoded,
        "steps": [step.to_json() for step in policy.steps],
        "unsquashes": policy.unsquashes,
        "clips": policy.clips,
    }


def _policy_from_json(
    index: int, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> PolicyRecipe:
    observed = _space_from_json(document["observation_space"])
    acted = _space_from_json(document["action_space"])
    space = Encoding(observed, acted).observation_space if document["is_encoded"] else observed
    steps: list[Step] = []
    for number, settings in enumerate(document["steps"]):
        state = _under(f"policy/{index}/{number}/", arrays)
        step = preprocessing.from_json(settings, state, space)
        steps.append(step)
        space = preprocessing.space_after(step, space)
    return PolicyRecipe(
        name=document["name"],
        module=document["module"],
        agents=tuple(document["agents"]),
        observation_space=observed,
        action_space=acted,
        is_encoded=document["is_encoded"],
        steps=tuple(steps),
        unsquashes=document["unsquashes"],
        clips=document["clips"],
    )


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name[len(prefix) :]: part for name, part in arrays.items() if name.startswith(prefix)}


def _space_to_json(space: Space[Any]) -> dict[str, Any]:
    return json_format.MessageToDict(spaces.to_proto(space))


def _space_from_json(document: Mapping[str, Any]) -> Space[Any]:
    return spaces.from_proto(json_format.ParseDict(dict(document), space_pb2.Space()))
