"""Compare the student's rows with a target, one file an objective."""
