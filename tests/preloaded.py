"""What every ``farsim serve`` loads, whatever it serves."""

# ruff: noqa: F401, E402
from farsim import polling

polling.settle()

import gymnasium.envs.classic_control
import gymnasium.vector

import farsim.cli
import farsim.serving
import simserver.adapters.gymnasium_env
import simserver.attach
import simserver.catalogue
import simserver.cli
import simserver.server
import simserver.sims.adder
import simserver.sims.deeprm
import simserver.sims.particle
