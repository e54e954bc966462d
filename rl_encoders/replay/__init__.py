"""What agents have done and seen: trajectories, and what is drawn of them to learn from."""
