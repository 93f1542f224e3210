"""A language model of Python code, on the source that every machine has: Python's own standard library."""
