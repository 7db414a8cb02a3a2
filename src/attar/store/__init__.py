"""Keep results: content-keyed artifacts, the run's journal and its lock. Files and JSON; knows no model."""
