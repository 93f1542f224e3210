"""What is made of a trained model: one with its adapter merged, one that is given on."""
