"""`Trainer`: the face that Hugging Face's users know, and what makes it."""
