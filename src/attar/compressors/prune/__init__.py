"""Remove parts of a model: single weights, channels, widths and layers; one file a way."""
