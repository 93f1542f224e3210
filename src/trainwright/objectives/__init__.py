"""What is minimised: each objective turns a batch into its share of the loss, and counts its targets."""
