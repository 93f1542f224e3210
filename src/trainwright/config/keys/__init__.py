"""What becomes of every key of a file: the table, and what is made from it."""
