"""Gateways: simulators that speak another protocol, offered as Farsim simulators."""
