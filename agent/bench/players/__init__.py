"""The sides of a comparison: a module each, which runs as a process of its own."""
