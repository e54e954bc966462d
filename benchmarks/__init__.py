"""Measurements: scripts that anyone can repeat, and whose output the documentation quotes."""
