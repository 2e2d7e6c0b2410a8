"""What RLlib's ``env_config`` says to the env runners here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from gymnasium.vector import AutoresetMode

from farsim import addresses as address_lists
from farsim.errors import InvalidOption, UnknownOption
from farsim.options import nearest

_CHOICES = {
    "autoreset_mode": ("", AutoresetMode.SAME_STEP.value, AutoresetMode.NEXT_STEP.value),
    "inference": ("torch", "numpy"),
}


@dataclass(frozen=True)
class RemoteEnvConfig:
    """RLlib's ``env_config`` for ``RemoteEnvRunner``; a plain dict with these keys.

    Attributes:
        addresses: ``host:port``, ``host:first-last``, or a list of them. Runner i of n takes
            addresses i, i + n, ...; runners share where there are fewer.
        simulator: a name on offer there; may be empty if there is just one.
        options: values of the simulator's parameters.
        evaluation_addresses: for evaluation runners; empty: they use ``addresses``.
        fallback_addresses: servers that are used only when others are gone.
        connection: fields of ``ConnectionOptions``.
        action_mask_in_observation: as at ``RemoteVectorEnv``.
        render_mode: "rgb_array" if callbacks render.
        envs_per_session: for a fleet that grows and shrinks; as at ``RemoteVectorEnv``. Every
            runner then uses all ``addresses``.
        splits: in how many parts a runner's environments are stepped, one on its way while the
            policy acts on another. Each costs a forward pass and a message, which pays where the
            network or the simulators are slow.
        inference: "torch", or "numpy" for dense networks on a CPU, which act in a fraction of the
            time where environments are few; see ``NumpyForward``.
        sample_ahead: whether the next sample is taken while the learner works on the last one, with
            the weights from before that; see ``SamplesAhead``.
        autoreset_mode: "SameStep", in which no step is lost to resets, or "NextStep", as RLlib's
            own loop needs it; "": the first where simulators offer it and nothing needs the second.
    """

    addresses: str | Sequence[str]
    simulator: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    evaluation_addresses: str | Sequence[str] = ()
    fallback_addresses: str | Sequence[str] = ()
    connection: Mapping[str, Any] = field(default_factory=dict)
    action_mask_in_observation: bool = False
    render_mode: str | None = None
    envs_per_session: int | None = None
    splits: int = 1
    autoreset_mode: str = ""
    inference: str = "torch"
    sample_ahead: bool = False

    @classmethod
    def of(cls, env_config: Mapping[str, Any]) -> RemoteEnvConfig:
        """Reads a plain dict.

        Raises:
            UnknownOption: a key that is none of the above; says which is nearest.
            InvalidOption: no addresses, or a value that is none of those allowed.
        """
        known = [key.name for key in fields(cls)]
        for name in env_config:
            if name not in known:
                raise UnknownOption(
                    f"env_config has no key '{name}'{nearest(str(name), known)}", name
                )
        if not env_config.get("addresses"):
            raise InvalidOption(
                "env_config needs 'addresses': where the simulators are", "addresses"
            )
        config = cls(**env_config)
        for name, choices in _CHOICES.items():
            chosen = getattr(config, name)
            if chosen not in choices:
                allowed = ", ".join(map(repr, choices))
                raise InvalidOption(
                    f"env_config[{name!r}] is one of {allowed}, not {chosen!r}", name
                )
        return config

    def places(
        self, worker_index: int, num_workers: int, in_evaluation: bool
    ) -> tuple[list[str], list[str]]:
        """The addresses of one env runner, and those that it may turn to.

        Args:
            worker_index: from 1; 0 is the runner within the algorithm's own process.
            num_workers: how many runners there are besides that one.
            in_evaluation: whether they evaluate.
        """
        pool = address_lists.expand(self.addresses)
        spare = list(pool)
        if in_evaluation and self.evaluation_addresses:
            pool = address_lists.expand(self.evaluation_addresses)
        if self.fallback_addresses:
            spare += address_lists.expand(self.fallback_addresses)
        if not num_workers or self.envs_per_session is not None:
            return pool, spare
        index = max(worker_index - 1, 0)
        own = pool[index::num_workers] or [pool[index % len(pool)]]
        return own, [*pool, *spare]
