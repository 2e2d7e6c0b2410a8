"""The gateway for simulator servers that dial in."""
