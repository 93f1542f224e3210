"""The page of the jobs, and who may ask it for something."""
