"""Turn examples into rows and rows into metrics, one file a task."""
