"""Derivatives by a small language model: it learns from few worked problems, then from a checker on many more."""
