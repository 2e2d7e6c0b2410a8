"""The other side of ``farsim bench``: simulators in process, and servers of other protocols."""
