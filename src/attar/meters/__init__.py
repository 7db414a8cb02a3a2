"""Measure a model, one file a quantity."""
