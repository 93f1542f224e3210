"""Ways of running: one process or several, and the number formats."""
