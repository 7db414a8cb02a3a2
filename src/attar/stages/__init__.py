"""Do the parts of a run, one file a stage."""
