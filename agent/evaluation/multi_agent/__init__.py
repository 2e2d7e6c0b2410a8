"""``farsim evaluate`` where there are several agents."""
