"""From a file and overrides to dataclasses, and back."""
