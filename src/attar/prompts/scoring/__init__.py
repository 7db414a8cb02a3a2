"""Score prompts on examples: by label words, by the likelihood of references, or by what the model writes."""
