"""Mutants: small faults put into the package one at a time, and whether a test notices. `make mutants` runs it."""
