"""Loaders: on top of torch's DataLoader, they give the micro-batches of one step at a time."""
