"""Simulators that run by themselves: a client for the actions of a policy that is served.

``LiveClient`` for threads, ``AsyncLiveClient`` for asyncio, ``PolicyClient`` for programs that
were written for RLlib's class of that name.
"""

from farsim.live.async_client import AsyncEpisode, AsyncLiveClient
from farsim.live.client import Episode, LiveClient
from farsim.live.fallback import Fallback
from farsim.live.interface import Group
from farsim.live.policy_client import PolicyClient

__all__ = [
    "AsyncEpisode",
    "AsyncLiveClient",
    "Episode",
    "Fallback",
    "Group",
    "LiveClient",
    "PolicyClient",
]
