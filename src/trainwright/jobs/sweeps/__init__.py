"""Sweeps: many jobs of one file, with values of its parameters from lists or ranges."""
