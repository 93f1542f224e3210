"""Imitation learning: policies from demonstrations, tried in their environment while they train."""
