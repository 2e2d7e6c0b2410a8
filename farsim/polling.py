"""How gRPC waits for the network, which it settles when it is loaded."""

from __future__ import annotations

import os
import sys
from importlib import metadata

_VARIABLE = "GRPC_EXPERIMENTS"
#: What else gRPC is told. Without its event engine it writes a line whenever a process with a
#: connection is forked, as Ray and subprocesses do it; its handlers serve children that go on
#: calling, and there are none.
_FORKS = ("GRPC_ENABLE_FORK_SUPPORT", "0")
#: Releases whose event engine can be turned off, and is on unless it is: from ... to before.
#: See https://github.com/grpc/grpc/pull/42150 and 43350.
_FIRST, _AFTER = (1, 80), (1, 86)


def settle() -> None:
    """Loads gRPC such that who waits for a message reads the socket too.

    Its event engine, which grpcio has since 1.80, reads in threads of its own and wakes the others:
    a fifth of the time and the CPU time of a small round trip. Does nothing where gRPC is loaded
    already, where it has no such choice, or where the environment makes one.
    """
    if "grpc" in sys.modules or _VARIABLE in os.environ:
        return
    release = metadata.version("grpcio").split(".")
    if not _FIRST <= (int(release[0]), int(release[1])) < _AFTER:
        return
    told = {_VARIABLE: "-event_engine_client,-event_engine_listener"}
    if _FORKS[0] not in os.environ:
        told |= [_FORKS]
    os.environ.update(told)
    try:
        import grpc  # noqa: F401
    finally:
        # It is read by now, and other programs that this one starts make their own choice.
        for name in told:
            del os.environ[name]
