"""YAML and dotted overrides become dataclasses, and dataclasses become a run."""
