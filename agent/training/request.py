"""What a training run is to be, and the settings that follow."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.training.checkpoint import Checkpoint
from agent.training.policies import PolicyWish
from agent.training.stopping import StopConditions

if TYPE_CHECKING:
    from agent.training.configuration import Setting, TrainingFile
    from agent.training.gateway import GatewayRequest
    from agent.training.live import LiveRequest

#: Settings of the algorithm by section and name.
Layer = Mapping[str, Mapping[str, "Setting"]]


@dataclass(frozen=True)
class Request:
    """What a training run is to be.

    Attributes:
        simulator: as ``farsim serve`` takes it, and its name on remote servers.
        out: the run's folder.
        sims: addresses of servers; empty starts local ones.
        local_servers: how many local servers to start.
        algo: RLlib's name of the algorithm; empty for the training file's, or the simulator's.
        file: the training file, read.
        stop: conditions that override the file's.
        checkpoint_folder: where checkpoints go; None for ``out / "checkpoints"``.
        checkpoint_every: iterations from one checkpoint to the next; 0 for only at the end.
        resume: the checkpoint to go on from.
        ray_address: of a Ray cluster; empty for a local Ray.
        ray_nodes: how many nodes the cluster must have first; 0 for whatever it has.
        wait_seconds: how long servers and nodes may take to be there; 0 for not at all.
        mlflow: whether the run goes to MLflow; None for where that is expected.
        options: of the simulator; they override the file's.
        layer: settings of the algorithm that override the file's.
        seed: of everything random; None draws one.
        connection: fields of ``ConnectionOptions``.
        policies: who decides for whom, which overrides the file's; None for that.
        video_every: iterations from one video to the next; 0 for none.
        live: how live simulators are taken; None: environments are remote.
        gateway: how simulators may dial in; None: they may not.
        envs_per_session: as at ``RemoteVectorEnv``.
        sampling: how env runners sample, as ``sampling.check`` takes it.
    """

    simulator: str
    out: Path
    sims: str = ""
    local_servers: int = 2
    algo: str = ""
    file: TrainingFile | None = None
    stop: StopConditions = field(default_factory=StopConditions)
    checkpoint_folder: Path | None = None
    checkpoint_every: int = 0
    resume: Checkpoint | None = None
    ray_address: str = ""
    ray_nodes: int = 0
    wait_seconds: float = 0.0
    mlflow: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    layer: Layer = field(default_factory=dict)
    seed: int | None = None
    connection: Mapping[str, Any] = field(default_factory=dict)
    policies: PolicyWish | None = None
    video_every: int = 0
    live: LiveRequest | None = None
    gateway: GatewayRequest | None = None
    envs_per_session: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decisions:
    """What a request comes to, with what it leaves to the training file and the checkpoint.

    Attributes:
        algo: RLlib's name of the algorithm.
        options: of the simulator.
        stop: when to stop.
        seed: of everything random.
        layers: settings of the algorithm, from the weakest to the strongest.
        policies: who decides for whom; None for what suits the algorithm.
    """

    algo: str
    options: Mapping[str, Any]
    stop: StopConditions
    seed: int
    layers: Sequence[Layer]
    policies: PolicyWish | None = None

    @classmethod
    def of(cls, request: Request) -> Decisions:
        """The command line comes before the training file, and that before the checkpoint."""
        from agent.training.configuration import TrainingFile
        from agent.training.presets import default_algorithm

        file = request.file or TrainingFile()
        resumed = request.resume.manifest if request.resume is not None else None
        algo = request.algo or file.algo or (resumed.algo if resumed is not None else "")
        algo = algo or default_algorithm(request.simulator)
        policies = request.policies if request.policies is not None else file.policies
        if policies is None and resumed is not None and resumed.is_multi_agent:
            policies = resumed.policies
        seed = _first(
            request.seed,
            _value(file.sections, "debugging", "seed"),
            resumed.seed if resumed is not None else None,
            random.SystemRandom().randrange(2**31),
        )
        return cls(
            algo=algo,
            options={
                **(resumed.options if resumed is not None else {}),
                **file.options,
                **request.options,
            },
            stop=StopConditions.of({**file.stop, **request.stop.to_mapping()}),
            seed=seed,
            layers=[
                _base(request, algo),
                file.sections,
                request.layer,
                _placed({"debugging": {"seed": seed}}, "--seed"),
            ],
            policies=policies,
        )


def _base(request: Request, algo: str) -> Layer:
    """The settings that all others override."""
    from agent.training.presets import preset

    if request.resume is not None and request.resume.manifest.algo == algo:
        return _placed(request.resume.manifest.settings, "the checkpoint resumed from")
    return _placed(preset(request.simulator, algo), "the built-in settings")


def _placed(settings: Mapping[str, Mapping[str, Any]], place: str) -> Layer:
    from agent.training.configuration import Setting

    return {
        section: {name: Setting(value, place) for name, value in members.items()}
        for section, members in settings.items()
    }


def _value(layer: Layer, section: str, name: str) -> Any:
    setting = layer.get(section, {}).get(name)
    return setting.value if setting is not None else None


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
