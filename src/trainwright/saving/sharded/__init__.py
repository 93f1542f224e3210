"""Saving a run whose state is spread over processes."""
