"""The built-in simulators, one package or module for each."""
