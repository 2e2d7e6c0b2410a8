"""MADDPG on RLlib's new API stack."""

from agent.maddpg.algorithm import MADDPG
from agent.maddpg.config import MADDPGConfig

__all__ = ["MADDPG", "MADDPGConfig"]
