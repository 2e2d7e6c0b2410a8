"""Comparing ways to step simulators, side by side: ``farsim bench``."""
