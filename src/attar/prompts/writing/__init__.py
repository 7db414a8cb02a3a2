"""Let models write what a search for prompts needs, and read what they wrote."""
