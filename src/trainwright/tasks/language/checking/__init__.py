"""What `check` finds out of the rows of data that lie here, before a model is loaded."""
