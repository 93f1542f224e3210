"""The same file, trained by transformers' and TRL's own trainers, so that anyone can compare."""
