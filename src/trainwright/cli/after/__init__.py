"""Commands about a model that is trained."""
