"""Search for prompts: ask for one, tell its scores."""
