"""A script as a job, and what it may tell."""
