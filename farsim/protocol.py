"""Which version of the contract this is."""

from __future__ import annotations

#: "major.minor", as ``proto/farsim/v1/simulator.proto`` defines it.
PROTOCOL_VERSION = "1.0"

#: The full name of the learner-driven service.
SERVICE = "farsim.v1.Simulator"

#: The full name of the service of those who have a policy.
POLICY_SERVICE = "farsim.v1.Policy"

#: Metadata of ``Run`` by which a client says that it can lose the session to a better place: who it
#: is, the same for all its sessions. Only a gateway takes notice.
FLEET_KEY = "farsim-fleet"


def compatible(version: str) -> bool:
    """Whether a peer of that version and this one understand each other."""
    return version.partition(".")[0] == PROTOCOL_VERSION.partition(".")[0]
