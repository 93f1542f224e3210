"""Checkpoints of which every process writes and reads its own part (docs/formats.md)."""
