"""Scripts as users of transformers write them: the same calls, whichever library the Trainer is of."""
