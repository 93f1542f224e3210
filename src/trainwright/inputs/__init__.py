"""From the user's datasets to batches, and what is asked of them before they are trained on."""
