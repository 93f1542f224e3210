"""The arguments in groups, one plain dataclass each."""
