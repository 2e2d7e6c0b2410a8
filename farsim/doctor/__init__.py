"""``farsim doctor``: why a server can not be reached, or where a step's time goes."""
