"""Comparing a trained policy with others on the same episodes: ``farsim evaluate``."""
