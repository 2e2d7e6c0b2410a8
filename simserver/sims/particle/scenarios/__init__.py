"""The nine scenarios, a file for each."""
