"""Policies: what all have in common, and one file for each kind."""
