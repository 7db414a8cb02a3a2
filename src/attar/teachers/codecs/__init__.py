"""Write rows as a few bytes and read them back, one file a codec."""
