"""Reading RLlib's own checkpoints, which are pickles: for those that are trusted."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gymnasium import Space
from ray.rllib.connectors.common.add_observations_from_episodes_to_batch import (
    AddObservationsFromEpisodesToBatch,
)
from ray.rllib.connectors.common.flatten_observations import FlattenObservations
from ray.rllib.connectors.common.frame_stacking import FrameStacking
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.env_to_module import (
    AddStatesFromEpisodesToBatch,
    AddTimeDimToBatchAndZeroPad,
    AgentToModuleMapping,
    BatchIndividualItems,
    EnvToModulePipeline,
    MeanStdFilter,
    NumpyToTensor,
    PrevActionsPrevRewards,
    WriteObservationsToEpisodes,
)
from ray.rllib.connectors.module_to_env import (
    GetActions,
    ListifyDataForVectorEnv,
    ModuleToAgentUnmapping,
    ModuleToEnvPipeline,
    NormalizeAndClipActions,
    RemoveSingleTsTimeRankFromBatch,
    TensorToNumpy,
    UnBatchToIndividualItems,
)
from ray.rllib.core import COMPONENT_ENV_TO_MODULE_CONNECTOR, COMPONENT_MODULE_TO_ENV_CONNECTOR
from ray.rllib.core.rl_module.rl_module import RLModule

from agent.policy.preprocessing import Flatten, MeanStd, Step, space_after
from agent.policy.recipe import ModuleRecipe, NotPortable, Pipeline, PolicyRecipe, Recipe
from agent.training.checkpoint import InvalidCheckpoint, Manifest
from agent.training.ray_runtime import quiet

#: In RLlib's checkpoints.
_MODULES = Path("learner_group", "learner", "rl_module")

logger = logging.getLogger(__name__)

#: Pieces that turn episodes into batches and back, which serving has no need of.
_PLUMBING = (
    AddObservationsFromEpisodesToBatch,
    AddStatesFromEpisodesToBatch,
    AddTimeDimToBatchAndZeroPad,
    AgentToModuleMapping,
    BatchIndividualItems,
    NumpyToTensor,
    WriteObservationsToEpisodes,
    GetActions,
    ListifyDataForVectorEnv,
    ModuleToAgentUnmapping,
    RemoveSingleTsTimeRankFromBatch,
    TensorToNumpy,
    UnBatchToIndividualItems,
)
#: Pieces that need what was before in the episode, which serving does not keep.
_LOOKING_BACK = (FrameStacking, PrevActionsPrevRewards)


def read(folder: Path, manifest: Manifest | None = None) -> Recipe:
    """The policies in a checkpoint of RLlib's new API stack. Runs code that it contains.

    Args:
        folder: what ``Algorithm.save_to_path`` wrote.
        manifest: what Farsim wrote next to it, if it did.

    Raises:
        InvalidCheckpoint: something in it cannot be loaded.
        NotPortable: a connector that looks back in the episode, or one of the user's own in a
            checkpoint of several agents.
    """
    with _no_warnings():
        with _loading(folder, "networks"):
            modules = _modules(folder)
        with _loading(folder, "connectors"):
            before = EnvToModulePipeline.from_checkpoint(
                _connectors(folder, COMPONENT_ENV_TO_MODULE_CONNECTOR)
            )
            behind = ModuleToEnvPipeline.from_checkpoint(
                _connectors(folder, COMPONENT_MODULE_TO_ENV_CONNECTOR)
            )
        iteration, steps = _progress(folder) if manifest is None else (0, 0)
    if manifest is not None:
        iteration, steps = manifest.iteration, manifest.steps
    return Recipe(
        modules=modules,
        policies=_policies(modules, before, behind, manifest),
        iteration=iteration,
        steps=steps,
        origin=str(folder),
        algo=manifest.algo if manifest is not None else "",
    )


def _modules(folder: Path) -> dict[str, ModuleRecipe]:
    recipes = {}
    for path in sorted((folder / _MODULES).iterdir()):
        if path.is_dir():
            module: Any = RLModule.from_checkpoint(path.absolute())
            catalog = getattr(module, "catalog", None)
            recipes[path.name] = ModuleRecipe(
                module_class=type(module),
                catalog_class=type(catalog) if catalog is not None else None,
                observation_space=module.observation_space,
                action_space=module.action_space,
                model_config=module.model_config or {},
                # Recurrent critics have states, which RLlib's actors carry along.
                weights=module.get_state(inference_only=not module.is_stateful()),
            )
    if not recipes:
        raise InvalidCheckpoint(f"there are no networks in {folder / _MODULES}", str(folder))
    return recipes


def _policies(
    modules: Mapping[str, ModuleRecipe],
    before: ConnectorPipelineV2,
    behind: ConnectorPipelineV2,
    manifest: Manifest | None,
) -> list[PolicyRecipe]:
    observed, acted = before.input_observation_space, before.input_action_space
    mapping = _piece(before, AgentToModuleMapping)
    own = _own(before, behind)
    if own and mapping is None:
        pipeline = Pipeline(before, behind, own)
        logger.warning("the policy goes %s, which is slower than arrays", pipeline.note)
        (name,) = modules
        return [
            PolicyRecipe(
                name=name,
                module=name,
                agents=(),
                observation_space=manifest.observation_space if manifest else observed,
                action_space=manifest.action_space if manifest else acted,
                is_encoded=manifest is not None,
                steps=(),
                unsquashes=False,
                clips=False,
                pipeline=pipeline,
            )
        ]
    unsquashes, clips = _scaling(behind)
    if mapping is None:
        (name,) = modules
        return [
            PolicyRecipe(
                name=name,
                module=name,
                agents=(),
                observation_space=manifest.observation_space if manifest else observed,
                action_space=manifest.action_space if manifest else acted,
                is_encoded=manifest is not None,
                steps=_steps(before, observed, None),
                unsquashes=unsquashes,
                clips=clips,
            )
        ]
    seen, done = observed, acted
    if manifest is None:
        names = {agent: _module_of(agent, mapping) for agent in observed.spaces}
    else:
        names = dict(manifest.policies)
        seen, done = manifest.observation_space, manifest.action_space
    found = [
        PolicyRecipe(
            name=name,
            module=name,
            agents=(agent,),
            observation_space=seen[agent],
            action_space=done[agent],
            is_encoded=manifest is not None,
            steps=_steps(before, observed[agent], agent),
            unsquashes=unsquashes,
            clips=clips,
        )
        for agent, name in names.items()
    ]
    return _merge(found)


def _merge(found: list[PolicyRecipe]) -> list[PolicyRecipe]:
    """Agents whose network and all around it are the same share a policy.

    Those that share a network alone, such as agents whose observations are normalised each by its
    own mean, get policies of their own, called ``module/agent``.
    """
    merged: list[PolicyRecipe] = []
    for policy in found:
        for index, other in enumerate(merged):
            if _same(policy, other):
                merged[index] = replace(other, agents=other.agents + policy.agents)
                break
        else:
            merged.append(policy)
    modules = [policy.module for policy in merged]
    return [
        replace(policy, name=f"{policy.module}/{policy.agents[0]}")
        if modules.count(policy.module) > 1
        else policy
        for policy in merged
    ]


def _same(one: PolicyRecipe, other: PolicyRecipe) -> bool:
    return (
        one.module == other.module
        and one.observation_space == other.observation_space
        and one.action_space == other.action_space
        and len(one.steps) == len(other.steps)
        and all(_same_step(a, b) for a, b in zip(one.steps, other.steps, strict=True))
    )


def _same_step(one: Step, other: Step) -> bool:
    mine, others = one.arrays(), other.arrays()
    return (
        one.to_json() == other.to_json()
        and mine.keys() == others.keys()
        and all((mine[name] == others[name]).all() for name in mine)
    )


def _steps(pipeline: ConnectorPipelineV2, space: Space[Any], agent: str | None) -> tuple[Step, ...]:
    """What the pipeline does to one agent's observations; None for a single-agent pipeline."""
    steps: list[Step] = []
    for piece in pipeline.connectors:
        step = _step(piece, space, agent)
        if step is not None:
            steps.append(step)
            space = space_after(step, space)
    return tuple(steps)


def _step(piece: Any, space: Space[Any], agent: str | None) -> Step | None:
    if type(piece) is MeanStdFilter:
        piece.get_state()  # Makes the filters, if nothing has been filtered yet.
        filtered: Any = (piece._filters or {})[agent]
        return MeanStd(
            filtered.running_stats.mean,
            filtered.running_stats.std,
            filtered.demean,
            filtered.destd,
            filtered.clip,
        )
    if type(piece) is FlattenObservations:
        if agent is not None and piece._agent_ids is not None and agent not in piece._agent_ids:
            return None
        return Flatten(space, tuple(piece._keys_to_remove))
    if type(piece) in _PLUMBING:
        return None
    raise NotPortable(
        f"the connector {type(piece).__name__} is none that can be served: those are "
        "MeanStdFilter, FlattenObservations and RLlib's defaults",
        type(piece).__name__,
    )


def _scaling(pipeline: ConnectorPipelineV2) -> tuple[bool, bool]:
    """Whether actions are unsquashed, and whether they are clipped."""
    scaling = (False, False)
    for piece in pipeline.connectors:
        if type(piece) is NormalizeAndClipActions:
            scaling = (piece.normalize_actions, piece.clip_actions)
        elif type(piece) not in _PLUMBING:
            raise NotPortable(
                f"the connector {type(piece).__name__}, from network to environment, is none "
                "that can be served: those are RLlib's defaults",
                type(piece).__name__,
            )
    return scaling


def _own(before: ConnectorPipelineV2, behind: ConnectorPipelineV2) -> tuple[str, ...]:
    """The classes of connectors that are neither RLlib's defaults nor known to look back."""
    known = (
        *_PLUMBING,
        *_LOOKING_BACK,
        MeanStdFilter,
        FlattenObservations,
        NormalizeAndClipActions,
    )
    pieces = [*before.connectors, *behind.connectors]
    names = [type(piece).__name__ for piece in pieces if type(piece) not in known]
    looking_back = [piece for piece in pieces if type(piece) in _LOOKING_BACK]
    # The other refusals name what they refuse.
    return () if looking_back else tuple(dict.fromkeys(names))


def _module_of(agent: str, mapping: Any) -> str:
    try:
        return str(mapping._agent_to_module_mapping_fn(agent, None))
    except Exception as error:  # It is the user's function.
        raise NotPortable(
            f"which policy agent '{agent}' has depends on more than its name: "
            f"{type(error).__name__}: {error}",
            agent,
        ) from error


def _piece(pipeline: ConnectorPipelineV2, kind: type) -> Any:
    return next((piece for piece in pipeline.connectors if type(piece) is kind), None)


def _connectors(folder: Path, name: str) -> Path:
    """With env runners elsewhere the algorithm keeps the connectors itself."""
    inner = folder / "env_runner" / name
    return (inner if inner.is_dir() else folder / name).absolute()


def _progress(folder: Path) -> tuple[int, int]:
    """Iterations and environment steps until this checkpoint; 0 where it does not say."""
    state = pickle.loads((folder / "algorithm_state.pkl").read_bytes())
    iteration = int(state.get("training_iteration", 0))
    runner = folder / "env_runner" / "state.pkl"
    steps = 0
    if runner.is_file():
        steps = pickle.loads(runner.read_bytes()).get("num_env_steps_sampled_lifetime", 0)
    return iteration, int(steps)


@contextmanager
def _loading(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except NotPortable:
        raise
    except Exception as error:  # Unpickling may raise anything.
        raise InvalidCheckpoint(
            f"cannot load the {what} in {folder}: {type(error).__name__}: {error}. If they are of "
            "classes of your own, put their modules on PYTHONPATH",
            str(folder),
        ) from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Without RLlib's announcements of its own deprecations with each network that it loads."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.rllib")]
    levels = [logger.level for logger in loggers]
    quiet()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
