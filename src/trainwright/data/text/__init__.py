"""Text becomes rows of tokens, and rows of tokens become batches."""
