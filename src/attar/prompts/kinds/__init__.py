"""Hold prompts that are trained: virtual tokens, prefixes, pixels and patch tokens, each around a frozen model."""
