"""Further trainers of TRL on the same file as ours."""
