"""Where simulators and heads run: containers on this machine, and the cloud."""
