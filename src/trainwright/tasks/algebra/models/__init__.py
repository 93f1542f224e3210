"""Models for problems and answers."""
