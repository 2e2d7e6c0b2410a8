"""Gateways: simulators that dial in, or speak something else, offered as Farsim simulators."""
