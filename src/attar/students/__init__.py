"""Make, save and load models, one file a kind."""
