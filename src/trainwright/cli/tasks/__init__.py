"""Commands of algebra and imitation."""
