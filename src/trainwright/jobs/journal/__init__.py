"""What a job writes down of itself, in files alone."""
