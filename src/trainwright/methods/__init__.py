"""The methods that a file can name: one file each, and one line in the table of `config/methods.py`."""
