"""From rows to the micro-batches of one optimizer step: the order, the loaders, the collators."""
