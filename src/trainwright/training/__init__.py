"""The loop, and one call of `train` around it."""
