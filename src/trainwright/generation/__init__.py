"""What a language model writes: for a person, for an evaluation, for reinforcement learning."""
