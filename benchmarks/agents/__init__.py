"""Agents beside each other: jobs over tasks, encoders, methods and seeds, and what they come to."""
