"""What a live env runner has to be told, in RLlib's ``env_config``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from agent.live.limits import Limits
from agent.live.server import PolicyServerOptions
from farsim.errors import InvalidOption, UnknownOption
from farsim.live.interface import Group
from farsim.options import nearest
from farsim.serving import read_token
from farsim.v1 import policy_pb2 as pb

_MODES = (pb.LIVE_MODE_SERVE, pb.LIVE_MODE_COLLECT, pb.LIVE_MODE_SHADOW)

#: Versions that a transition may be old, by algorithm. PPO's updates assume its data to be from
#: the policy before; those of the others correct for more. Algorithms with a replay buffer take
#: everything.
_STALENESS = {"PPO": 1, "MAPPO": 1, "APPO": 16, "IMPALA": 16}


@dataclass(frozen=True)
class LiveConfig:
    """RLlib's ``env_config`` for live env runners; a plain dict with these keys.

    Attributes:
        address: where the first env runner listens, host:port; each further one listens at the
            next port. Port 0 takes a free one for each.
        groups: the simulators' agents and spaces. Without, there is one agent, with the spaces of
            ``config.environment``.
        action_mask_in_observation: whether networks get a group's action mask, as members
            "observations" and "action_mask" of the observation.
        max_staleness: how many weights versions old a transition may be when it is learned from;
            None for what suits the algorithm, -1 for any number.
        wait_seconds: how long ``sample`` waits, at most, for what it was asked for.
        capacity: transitions that an env runner keeps until they are asked for; what comes beyond
            that is dropped, and counted as ``overflow``.
        first_runner: the number of the env runner that listens at ``address``; 1 is the first.
        listen: ``tls_cert``, ``tls_key``, ``tls_client_ca`` and ``token_file``, which are paths,
            ``insecure`` and ``grace_seconds``; as at ``farsim policy``.
        limits: fields of ``Limits``.
        greeted: a file with sessions that the first env runner takes over (``read_greeted``), if
            it is on the same machine; empty for none.
    """

    address: str = "127.0.0.1:50061"
    groups: Sequence[Group] = ()
    action_mask_in_observation: bool = False
    max_staleness: int | None = None
    wait_seconds: float = 5.0
    capacity: int = 100_000
    first_runner: int = 1
    listen: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    greeted: str = ""

    @classmethod
    def of(cls, env_config: Mapping[str, Any]) -> LiveConfig:
        """Reads a plain dict.

        Raises:
            UnknownOption: a key that is none of the above; says which is nearest.
            InvalidOption: a value that cannot be.
        """
        known = [key.name for key in fields(cls)]
        for name in env_config:
            if name not in known:
                raise UnknownOption(
                    f"env_config has no key '{name}'{nearest(str(name), known)}", name
                )
        config = cls(**env_config)
        host, _, port = config.address.rpartition(":")
        if not host or not port.isdigit():
            raise InvalidOption(f"address is host:port, not '{config.address}'", "address")
        if not config.wait_seconds > 0:
            raise InvalidOption("wait_seconds is more than 0", "wait_seconds")
        if config.capacity < 1:
            raise InvalidOption("capacity is 1 transition or more", "capacity")
        return config

    def address_of(self, worker_index: int, num_workers: int, in_evaluation: bool) -> str:
        """Where an env runner listens.

        Args:
            worker_index: from 1; 0 is the runner within the algorithm's own process.
            num_workers: how many runners there are besides that one.
            in_evaluation: whether it evaluates; such runners come after the others.
        """
        host, _, port = self.address.rpartition(":")
        if port == "0":
            return self.address
        offset = max(worker_index - self.first_runner, 0) + in_evaluation * max(num_workers, 1)
        return f"{host}:{int(port) + offset}"

    def server_options(self) -> PolicyServerOptions:
        given: dict[str, Any] = {
            name: Path(value) if name.startswith("tls_") else value
            for name, value in self.listen.items()
        }
        # RLlib writes its configuration to disk, where no token belongs.
        token_file = given.pop("token_file", None)
        if token_file is not None:
            given["token"] = read_token(Path(token_file))
        return PolicyServerOptions(
            modes=_MODES, greedy=False, limits=Limits(**self.limits), **given
        )

    def staleness_of(self, algo: str, on_policy: bool) -> int | None:
        """The bound that holds; None for none."""
        if self.max_staleness is None:
            return _STALENESS.get(algo, 1) if on_policy else None
        return self.max_staleness if self.max_staleness >= 0 else None
