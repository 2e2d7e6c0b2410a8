"""Simulators that run by themselves and ask a policy's server what to do: ``farsim live``."""
