"""The losses of a linear output layer, from hidden states, in chunks of rows."""
