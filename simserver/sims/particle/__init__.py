"""Particle: worlds of discs that move, push each other and talk, many at a time.

The nine scenarios of Lowe et al., "Multi-Agent Actor-Critic for Mixed Cooperative-Competitive
Environments" (NeurIPS 2017), https://github.com/openai/multiagent-particle-envs, with the rules of
their maintained version, https://github.com/Farama-Foundation/MPE2. "SPEC" in the comments is the
description of both that lies with the recordings, under ``tests/data/reference/particle``.
"""

from simserver.sims.particle.bodies import OTHERS, Landmarks, Team
from simserver.sims.particle.scenario import Outcome, Scenario, count_of, numbered
from simserver.sims.particle.simulator import Particle, simulator_of
from simserver.sims.particle.worlds import Worlds, length, squared_length

__all__ = [
    "OTHERS",
    "Landmarks",
    "Outcome",
    "Particle",
    "Scenario",
    "Team",
    "Worlds",
    "count_of",
    "length",
    "numbered",
    "simulator_of",
    "squared_length",
]
