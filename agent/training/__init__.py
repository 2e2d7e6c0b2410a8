"""Training with RLlib on remote simulators: ``farsim train``."""
