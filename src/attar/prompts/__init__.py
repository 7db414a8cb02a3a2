"""Find and score prompts."""
