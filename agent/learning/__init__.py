"""PPO's learner with little besides its arithmetic."""

from agent.learning.ppo_learner import PPOLearner

__all__ = ["PPOLearner"]
