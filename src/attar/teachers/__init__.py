"""Answer examples, one file a way to answer."""
