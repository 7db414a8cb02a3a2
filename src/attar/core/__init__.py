"""Name the nouns: protocols and frozen data classes, no algorithm."""
