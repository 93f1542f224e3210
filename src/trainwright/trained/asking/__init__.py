"""What a trained model writes when it is asked: answers to many prompts, or a conversation."""
