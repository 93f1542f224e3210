"""How lists of jobs are asked for: the language of their queries, the keys in it, and the conditions that it means."""
