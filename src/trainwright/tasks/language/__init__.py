"""Language models from a file: pre-training, supervised fine-tuning, preferences, adapters."""
