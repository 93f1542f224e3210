"""A person's way from nothing to a thing that is used, one file for each kind of person: commands as they type them."""
