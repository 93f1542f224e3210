"""Saving a run and going on from there: its parts, its reports, and what all ranks must agree on for both."""
