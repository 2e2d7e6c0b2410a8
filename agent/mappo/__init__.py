"""PPO for several agents with a value function that sees all of them."""

from agent.mappo.algorithm import MAPPO, MAPPOConfig

__all__ = ["MAPPO", "MAPPOConfig"]
