"""Make small tokenizers of the two common kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "I love this dress, it is so pretty and it fits well!",
    "Un café près de la forêt, s'il vous plaît.",
    "今日は天気がいいですね。 我喜欢这件衣服",
    "What a day 😀 🎉 and the weather is nice",
    "the the the weather weather dress dress pretty pretty",
]


@pytest.fixture(scope="session")
def byte_level() -> Any:
    """Return a byte-level BPE tokenizer, as GPT-2's: ``Ġ`` for a space, tokens that split characters."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>", "<|user|>"]
    inner.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=special, initial_alphabet=alphabet, min_frequency=1, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


@pytest.fixture(scope="session")
def sentence_pieces() -> Any:
    """Return a Unigram tokenizer with byte fallback, as SentencePiece makes: ``▁`` for a space, one more in front."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        [SENTENCES[place] for place in (0, 1, 2, 5)],
        trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False),
    )
    body = json.loads(trained.to_str())
    pieces = body["model"]["vocab"][1:]
    extra = [["<unk>", 0.0], ["</s>", 0.0], ["<|user|>", 0.0], *([f"<0x{byte:02X}>", -50.0] for byte in range(256))]
    body["model"] |= {"vocab": [*extra, *pieces], "unk_id": 0, "byte_fallback": True}
    names = ("<unk>", "</s>", "<|user|>")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    body["added_tokens"] = [{"id": place, "content": name, **plain} for place, name in enumerate(names)]
    inner = Tokenizer.from_str(json.dumps(body))
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
