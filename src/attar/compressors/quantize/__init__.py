"""Quantize exported graphs, one file a scheme."""
