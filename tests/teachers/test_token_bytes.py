from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attar.errors import AttarError
from attar.teachers.token_bytes import byte_alphabet, cutting, same_but_padding, token_bytes, vocabulary_map

TEXTS = ["The dress 😀 café 今日", "fits well!\n\tTwo  spaces", "naïve ☕"]


def _words(names: list[str], end: str = "</s>") -> Any:
    inner = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, unk_token="<unk>")


def test_the_byte_alphabet_stands_for_each_byte_once() -> None:
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert byte_alphabet()["Ċ"] == 10


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_a_text_s_tokens_are_the_text(text: str, byte_level: Any, sentence_pieces: Any) -> None:
    for tokenizer, before in ((byte_level, ""), (sentence_pieces, " ")):
        pieces = token_bytes(tokenizer)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert b"".join(pieces[i] or b"" for i in ids) == f"{before}{text}".encode()


def test_special_tokens_stand_for_no_text(byte_level: Any, sentence_pieces: Any) -> None:
    for tokenizer in (byte_level, sentence_pieces):
        pieces = token_bytes(tokenizer)
        assert [pieces[i] for i in tokenizer.all_special_ids] == [None] * len(tokenizer.all_special_ids)


def test_added_words_stand_for_themselves(byte_level: Any) -> None:
    more = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(byte_level.backend_tokenizer.to_str()))
    more.add_tokens(["é\n\n"])
    assert token_bytes(more)[-1] == "é\n\n".encode()


def test_word_pieces_lose_their_marks() -> None:
    inner = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "##ing": 2}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")) == [None, b" the", b"ing"]


def test_tokens_of_equal_bytes_map_by_hand() -> None:
    teacher = _words(["<unk>", "</s>", "▁a", "b", "▁cd"])
    student = _words(["b", "<unk>", "▁a", "<end>", "x"], "<end>")
    assert vocabulary_map(teacher, student).tolist() == [-1, 3, 2, 0, -1]
    assert vocabulary_map(teacher, student, 7).tolist() == [-1, 3, 2, 0, -1, -1, -1]


def test_a_piece_goes_before_a_byte_token_of_the_same_bytes() -> None:
    teacher = _words(["<unk>", "</s>", "<0x62>", "b"])
    student = _words(["<unk>", "</s>", "b", "<0x62>"])
    assert vocabulary_map(teacher, student).tolist() == [-1, 1, -1, 2]


def test_end_tokens_map_to_each_other_whatever_their_names(byte_level: Any, sentence_pieces: Any) -> None:
    there = vocabulary_map(byte_level, sentence_pieces)
    assert there[byte_level.eos_token_id] == sentence_pieces.eos_token_id
    user = byte_level.convert_tokens_to_ids("<|user|>")
    assert there[user] == sentence_pieces.convert_tokens_to_ids("<|user|>")


def test_mapped_tokens_stand_for_equal_bytes_and_no_two_for_one(byte_level: Any, sentence_pieces: Any) -> None:
    for teacher, student in ((byte_level, sentence_pieces), (sentence_pieces, byte_level)):
        there = vocabulary_map(teacher, student)
        theirs, ours = token_bytes(teacher), token_bytes(student)
        pairs = [(old, int(new)) for old, new in enumerate(there) if new >= 0]
        assert len(pairs) > 256
        assert all(theirs[old] == ours[new] for old, new in pairs)
        assert len({new for _, new in pairs}) == len(pairs)


def test_a_tokenizer_maps_to_itself_place_by_place(byte_level: Any) -> None:
    assert vocabulary_map(byte_level, byte_level).tolist() == list(range(len(byte_level)))


def test_padding_alone_needs_no_map(byte_level: Any, sentence_pieces: Any) -> None:
    again = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(byte_level.backend_tokenizer.to_str()), eos_token="<|end|>"
    )
    assert same_but_padding(byte_level, again)
    assert not same_but_padding(byte_level, sentence_pieces)
    again.eos_token = "<|user|>"
    assert not same_but_padding(byte_level, again)


def test_what_a_caller_sets_on_a_tokenizer_does_not_count(byte_level: Any) -> None:
    again = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(byte_level.backend_tokenizer.to_str()), eos_token="<|end|>"
    )
    again.backend_tokenizer.enable_truncation(3)
    assert cutting(again) == cutting(byte_level)


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(AttarError, match=r"object has no tokenizer.json"):
        token_bytes(object())
