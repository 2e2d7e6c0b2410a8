"""Farsim: run reinforcement-learning simulators anywhere, and train on them from anywhere."""

__version__ = "0.1.0"
