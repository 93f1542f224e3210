"""How the processes of a run divide a model: their layout, what is asked of it, and what each of them holds."""
