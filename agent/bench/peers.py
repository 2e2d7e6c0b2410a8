"""Who steps simulators: Farsim, other projects, and what one would write by hand."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.bench import launch
from agent.bench.case import Case
from farsim.errors import InvalidOption
from farsim.options import nearest

#: Names the interpreter that has OpenEnv, if it is not this one.
OPENENV_PYTHON = "FARSIM_OPENENV_PYTHON"


@dataclass(frozen=True)
class Peer:
    """One of them.

    Attributes:
        name: on the command line.
        title: in the table.
        launch: starts one for a case.
        needs: a module that must be there; empty for none.
        install: how to get it.
        simulators: those that it can step; empty for any.
        not_simulators: those that it can not.
        has_wire: whether there is something between it and the simulator.
        has_servers: whether it can use several servers.
        envs: how many environments it can have, whatever the case says; 0 for any number.
        is_there: where ``needs`` does not tell; says whether it can run.
        many_title: where a simulator has several agents, if it is another one.
    """

    name: str
    title: str
    launch: launch.Launch
    needs: str = ""
    install: str = ""
    simulators: tuple[str, ...] = ()
    not_simulators: tuple[str, ...] = ()
    has_wire: bool = True
    has_servers: bool = False
    envs: int = 0
    is_there: Callable[[], bool] | None = None
    many_title: str = ""

    @property
    def is_present(self) -> bool:
        """Whether it can run here."""
        if self.is_there is not None:
            return self.is_there()
        return all(importlib.util.find_spec(name) for name in self.needs.split())

    def title_for(self, case: Case) -> str:
        """What the table says."""
        return self.many_title if self.many_title and case.simulator == "spread" else self.title

    def refuses(self, case: Case) -> str:
        """Why it can not play a case; empty if it can."""
        if self.simulators and case.simulator not in self.simulators:
            return f"steps {' and '.join(self.simulators)} alone"
        if case.simulator in self.not_simulators:
            return f"does not step {case.simulator}"
        if case.servers > 1 and not self.has_servers:
            return "has one server"
        if case.link.is_there and not self.has_wire:
            return "has no link"
        return ""


@cache
def openenv_python() -> str:
    """The interpreter that has OpenEnv; empty if none is known."""
    named = os.environ.get(OPENENV_PYTHON)
    # Where the tests of this project put it, as it asks for much that nothing else here needs.
    beside = Path(sys.prefix) / "openenv" / "bin" / "python"
    for candidate in (named, sys.executable, str(beside) if beside.exists() else None):
        if (
            candidate
            and not subprocess.run(
                [candidate, "-c", "import openenv.core.generic_client"], capture_output=True
            ).returncode
        ):
            return candidate
    return ""


@cache
def has_grpc_cpp() -> bool:
    """Whether programs that use gRPC for C++ can be built."""
    tools = all(shutil.which(name) for name in ("g++", "pkg-config"))
    return tools and not subprocess.run(["pkg-config", "--exists", "grpc++"]).returncode


#: How long waits of the peers named so keep processors awake, seconds.
_AWAKE = 0.002

_BY_HAND = "agent.bench.players.plain_grpc"
_OPENENV = {
    "install": "python -m venv openenv && openenv/bin/pip install openenv, and "
    f"{OPENENV_PYTHON}=openenv/bin/python",
    "simulators": ("cartpole",),
    "is_there": lambda: bool(openenv_python()),
}
_TRAIN = {"needs": "ray torch", "install": "pip install 'farsim[train]'"}

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "remote",
            "RemoteVectorEnv",
            launch.with_farsim_servers("agent.bench.players.remote_env"),
            has_servers=True,
            many_title="RemoteMultiAgentVectorEnv",
        ),
        Peer(
            "remote-pipelined",
            "RemoteVectorEnv, two halves in flight",
            launch.with_farsim_servers("agent.bench.players.remote_env", splits=2),
            has_servers=True,
            # Environments with several agents are stepped all at once.
            not_simulators=("spread",),
        ),
        Peer(
            "remote-pipelined-8",
            "RemoteVectorEnv, eight parts in flight",
            launch.with_farsim_servers("agent.bench.players.remote_env", splits=8),
            has_servers=True,
            not_simulators=("spread",),
        ),
        Peer(
            "remote-awake",
            "RemoteVectorEnv, processors kept awake",
            launch.with_farsim_servers("agent.bench.players.remote_env", spin_seconds=_AWAKE),
            has_servers=True,
            not_simulators=("spread",),
        ),
        Peer(
            "runner",
            "Farsim's env runner, PPO 64×64",
            launch.with_farsim_servers("agent.bench.players.env_runner", "ours"),
            has_servers=True,
            **_TRAIN,  # type: ignore[arg-type]
        ),
        Peer(
            "runner-numpy",
            "Farsim's env runner, acting in NumPy",
            launch.with_farsim_servers("agent.bench.players.env_runner", "numpy"),
            has_servers=True,
            not_simulators=("spread",),
            **_TRAIN,  # type: ignore[arg-type]
        ),
        Peer(
            "runner-awake",
            "Farsim's env runner, in NumPy, processors kept awake",
            launch.with_farsim_servers(
                "agent.bench.players.env_runner", "numpy", spin_seconds=_AWAKE
            ),
            has_servers=True,
            not_simulators=("spread",),
            **_TRAIN,  # type: ignore[arg-type]
        ),
        Peer(
            "rllib",
            "RLlib's env runner in process, PPO 64×64",
            launch.in_process("agent.bench.players.env_runner", "rllib"),
            has_wire=False,
            **_TRAIN,  # type: ignore[arg-type]
        ),
        Peer(
            "rllink",
            "RLlib's RLlink external environment",
            launch.rllink,
            needs="ray torch msgpack msgpack_numpy",
            install="pip install 'farsim[train]' msgpack msgpack-numpy",
            simulators=("cartpole",),
            envs=1,
        ),
        Peer(
            "in-process",
            "no wire: a plain loop in process",
            launch.in_process("simserver.bench.in_process"),
            has_wire=False,
        ),
        Peer(
            "grpc-unary",
            "plain gRPC by hand, unary",
            launch.with_server("simserver.bench.plain_grpc", _BY_HAND, "unary"),
        ),
        Peer(
            "grpc-stream",
            "plain gRPC by hand, stream",
            launch.with_server("simserver.bench.plain_grpc", _BY_HAND, "stream"),
        ),
        Peer(
            "grpc-stream-pipelined",
            "plain gRPC by hand, stream, two halves in flight",
            launch.with_server("simserver.bench.plain_grpc", _BY_HAND, "stream", splits=2),
        ),
        Peer(
            "grpc-push",
            "plain gRPC by hand, one way",
            launch.with_server("simserver.bench.plain_grpc", _BY_HAND, "push"),
        ),
        Peer(
            "grpc-cpp",
            "gRPC stream in C++, no simulator",
            launch.grpc_cpp,
            install="apt install g++ pkg-config libgrpc++-dev",
            simulators=("cartpole", "cartpole-numpy"),
            is_there=has_grpc_cpp,
        ),
        Peer(
            "dm-env-rpc",
            "dm_env_rpc, batched by hand",
            launch.with_server(
                "simserver.bench.dm_env_rpc_server", "agent.bench.players.dm_env_rpc_client"
            ),
            needs="dm_env_rpc",
            install="pip install 'farsim[dmenv]'",
        ),
        Peer(
            "openenv",
            "OpenEnv, one client",
            launch.openenv(openenv_python, single=True),
            envs=1,
            **_OPENENV,  # type: ignore[arg-type]
        ),
        Peer(
            "openenv-batch",
            "OpenEnv, batched by hand",
            launch.openenv(openenv_python, single=False),
            **_OPENENV,  # type: ignore[arg-type]
        ),
    )
}


def find(name: str) -> Peer:
    """By name.

    Raises:
        InvalidOption: there is none of that name.
    """
    if name not in PEERS:
        raise InvalidOption(
            f"no peer '{name}'{nearest(name, PEERS)}; there are {', '.join(PEERS)}", "peer"
        )
    return PEERS[name]
