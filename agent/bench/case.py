"""What is compared: one row of the table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.bench.link import Link
from farsim.errors import InvalidOption, UnknownSimulator
from farsim.options import nearest

#: A batch simulator with nothing in it; `farsim serve` takes it by this name.
_SYNTHETIC = "simserver.sims.synthetic:Synthetic"

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_STEP_TIME = re.compile(r"synthetic-(?P<number>\d+(\.\d+)?)(?P<unit>us|ms|s)")


@dataclass(frozen=True)
class Simulator:
    """What is stepped.

    Attributes:
        name: of this command's.
        served: what ``farsim serve`` calls it.
        options: values of its parameters.
    """

    name: str
    served: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str) -> Simulator:
        """By name; ``synthetic-1ms`` takes any time.

        Raises:
            UnknownSimulator: there is none of that name.
        """
        if name in SIMULATORS:
            return SIMULATORS[name]
        match = _STEP_TIME.fullmatch(name)
        if match is None:
            raise UnknownSimulator(
                f"no simulator '{name}' to compare with{nearest(name, SIMULATORS)}; there are "
                f"{', '.join(SIMULATORS)}, and synthetic-<time> such as synthetic-100us",
                name,
            )
        seconds = float(match["number"]) * _SECONDS[match["unit"]]
        return cls(name, _SYNTHETIC, {"step_seconds": seconds})


SIMULATORS = {
    simulator.name: simulator
    for simulator in (
        Simulator("cartpole", "gymnasium/CartPole-v1"),
        Simulator("cartpole-numpy", "gymnasium-vector/CartPole-v1"),
        Simulator("deeprm", "deeprm"),
        Simulator("spread", "particle/simple_spread"),
        Simulator("image", _SYNTHETIC, {"image": 1}),
        Simulator("synthetic", _SYNTHETIC),
    )
}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        peer: who steps; a name in ``PEERS``.
        simulator: what is stepped; see ``Simulator.of``.
        envs: environments in all.
        servers: sessions that they are spread over.
        link: between the head and each server.
        processes: in how many processes the servers are, as if each were alone; 0: one each. For
            synthetic simulators.
    """

    peer: str
    simulator: str
    envs: int
    servers: int = 1
    link: Link = field(default_factory=Link)
    processes: int = 0

    def __str__(self) -> str:
        parts = [self.peer, self.simulator, f"{self.envs} environments"]
        if self.servers > 1:
            parts.append(f"{self.servers} servers")
        if self.link.is_there:
            parts.append(str(self.link))
        return ", ".join(parts)


@dataclass(frozen=True)
class Baseline:
    """What rows are compared with: the row that differs from them in one attribute alone.

    Attributes:
        attribute: of ``Case``.
        value: as its text.
    """

    attribute: str
    value: str

    @classmethod
    def of(cls, text: str) -> Baseline:
        """From "peer=rllib", "link=none", "servers=1", ...; a name alone is a peer's.

        Raises:
            InvalidOption: no such attribute.
        """
        attribute, equals, value = text.partition("=")
        if not equals:
            return cls("peer", text)
        if attribute not in _COMPARABLE:
            raise InvalidOption(
                f"rows are compared by {', '.join(_COMPARABLE)}, not by '{attribute}'", "baseline"
            )
        return cls(attribute, value)

    def holds(self, case: Case) -> bool:
        """Whether a case is one that others are compared with."""
        return str(getattr(case, self.attribute)) == self.value

    def belongs_to(self, base: Case, case: Case) -> bool:
        """Whether ``case`` is to be compared with ``base``."""
        # More servers come with more environments.
        ignored = {self.attribute, "processes"} | (
            {"envs"} if self.attribute == "servers" else set()
        )
        return self.holds(base) and all(
            getattr(base, name) == getattr(case, name)
            for name in _COMPARABLE
            if name not in ignored
        )


_COMPARABLE = ("peer", "simulator", "envs", "servers", "link")
