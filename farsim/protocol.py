"""Which version of the contract this is."""

from __future__ import annotations

#: "major.minor", as ``proto/farsim/v1/simulator.proto`` defines it.
PROTOCOL_VERSION = "1.0"

#: The full name of the learner-driven service.
SERVICE = "farsim.v1.Simulator"

#: The full name of the service of those who have a policy.
POLICY_SERVICE = "farsim.v1.Policy"


def compatible(version: str) -> bool:
    """Whether a peer of that version and this one understand each other."""
    return version.partition(".")[0] == PROTOCOL_VERSION.partition(".")[0]
