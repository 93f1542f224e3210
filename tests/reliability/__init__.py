"""Runs that never lose a step: proven with real kills, signals, full disks and flipped bits."""
