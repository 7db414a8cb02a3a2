"""Take a large model that does a task and return the smallest model that still does it."""

__version__ = "0.1.0"
