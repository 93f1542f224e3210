"""What watches and steers a run from the side."""
