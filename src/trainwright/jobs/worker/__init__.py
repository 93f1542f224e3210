"""The queue, and who runs what is in it."""
