"""Particle's scenarios as seen by their agents, and scripted controllers for them."""
