"""What the engine needs to know of a model, asked in one place."""
