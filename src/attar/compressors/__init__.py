"""Make a model smaller, one file a way."""
