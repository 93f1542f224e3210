"""What a run will do and need, told before it begins."""
