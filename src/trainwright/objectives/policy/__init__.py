"""Policy gradients: what a completion was worth (`advantages`), and what is minimised (`losses`, `objective`)."""
