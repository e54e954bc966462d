"""What a step sees, as a function of (seed, step): its instances, their frames, their pixels."""
