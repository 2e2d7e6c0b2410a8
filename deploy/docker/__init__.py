"""Simulator servers in containers of a Docker Engine, through Docker's SDK."""
