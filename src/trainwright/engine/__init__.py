"""The loop, the Trainer around it, and what the Trainer delegates to."""
