"""Trackers: where the numbers of a run go. One file for each, and its line in `table.py`."""
