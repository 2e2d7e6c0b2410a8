"""A module of PettingZoo's kind that needs a package nobody has."""

import some_engine

env = some_engine.env
