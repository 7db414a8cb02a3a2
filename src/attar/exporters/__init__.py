"""Write models for other runtimes, one file a format."""
