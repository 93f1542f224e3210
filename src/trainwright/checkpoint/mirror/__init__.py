"""A run's checkpoints in a second place, such as a bucket, and a run that goes on from there on an empty disk."""
