"""Computer algebra with transformers: problems and answers as text, a lexer, encoder-decoder and decoder models."""
