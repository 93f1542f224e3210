"""Optimizers and schedules, by transformers' names."""
