"""Score prompts on examples: by label words, by the likelihood of references, or by what the model writes."""

from attar.prompts.scoring.label_words import LabelWordScorer, distinct, word_ids

__all__ = ["LabelWordScorer", "distinct", "word_ids"]
