"""Farsim: run reinforcement-learning simulators anywhere, and train on them from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farsim.live import AsyncLiveClient as AsyncLiveClient
    from farsim.live import LiveClient as LiveClient

__version__ = "0.1.0"

#: What ``farsim.live`` has, loaded when it is first used: `farsim --help` needs no gRPC.
_LIVE = ("AsyncLiveClient", "LiveClient")


def __getattr__(name: str) -> Any:
    if name in _LIVE:
        from farsim import live

        return getattr(live, name)
    raise AttributeError(f"module 'farsim' has no attribute '{name}'")
