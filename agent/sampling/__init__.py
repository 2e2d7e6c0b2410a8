"""Sampling on arrays: one forward pass for all environments, episodes cut out of blocks."""
