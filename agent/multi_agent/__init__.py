"""Sampling from simulators with several agents, on arrays."""
