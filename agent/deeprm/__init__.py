"""What the head knows about DeepRM: its compact observation, and the textbook heuristics."""
