"""Policy networks for RLlib, and which one a simulator gets."""
