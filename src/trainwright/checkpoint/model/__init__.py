"""A model's weights on disk: whole, or as adapters beside what they do not hold."""
