"""Tests of training on simulators that run by themselves."""
