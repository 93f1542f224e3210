"""Verifiers that ship: whether what a model wrote is right, as rewards and as checkers of an evaluation.

Each is a function of one completion and of columns of its row, and returns 1.0 or 0.0 (or a share).
"""
