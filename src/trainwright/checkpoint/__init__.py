"""Checkpoints: a folder that exists whole or not at all, and what is in it."""
