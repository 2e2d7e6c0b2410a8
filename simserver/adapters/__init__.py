"""What lifts other kinds of environments to batch simulators."""
