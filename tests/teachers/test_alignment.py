from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attar.teachers.alignment import (
    NOWHERE,
    TokenizerCut,
    align,
    find_rows,
    positions,
    starts_of_bytes,
    starts_of_offsets,
)
from attar.teachers.token_bytes import token_bytes

SHARED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.sampled_from("the dress é😀今日\n ,T"), min_size=1, max_size=24)


def _lower_words() -> Any:
    names = ["[UNK]", "[SEP]", "good", "dress", "##es", ",", "so"]
    inner = Tokenizer(models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="[SEP]", unk_token="[UNK]")


def test_starts_by_hand() -> None:
    assert starts_of_bytes([b"the", b" cat"], "the cat").tolist() == [0, 3, 7]  # type: ignore[union-attr]
    assert starts_of_bytes([], "the cat").tolist() == [0]  # type: ignore[union-attr]
    assert starts_of_bytes([b"the"], "the cat").tolist() == [0, 3]  # type: ignore[union-attr]


def test_a_space_that_a_tokenizer_puts_in_front_begins_below_zero() -> None:
    assert starts_of_bytes([b" the", b" cat"], "the cat").tolist() == [-1, 3, 7]  # type: ignore[union-attr]
    assert starts_of_bytes([b" ", b"the"], "the cat").tolist() == [-1, 0, 3]  # type: ignore[union-attr]
    assert starts_of_bytes([b" the"], " the").tolist() == [0, 4]  # type: ignore[union-attr]


def test_starts_inside_a_character_are_exact() -> None:
    smile = "😀".encode()
    assert starts_of_bytes([b"a", smile[:3], smile[3:], b"b"], "a😀b").tolist() == [0, 1, 4, 5, 6]  # type: ignore[union-attr]


def test_tokens_that_are_not_the_text_have_no_starts() -> None:
    assert starts_of_bytes([b"cafe"], "café") is None
    assert starts_of_bytes([b"a", None], "ab") is None
    assert starts_of_bytes([b"a"], " a") is None


def test_tokens_of_no_bytes_begin_nowhere() -> None:
    assert starts_of_bytes([b"a", b"", b"b"], "ab").tolist() == [0, NOWHERE, NOWHERE, 2]  # type: ignore[union-attr]


def test_by_offsets_a_token_begins_where_the_one_before_it_ended() -> None:
    assert starts_of_offsets([(0, 1), (2, 4), (4, 5)], "é caf").tolist() == [0, 2, 5, 6]
    assert starts_of_offsets([(1, 2)], "é", " ").tolist() == [-1, 2]


def test_by_offsets_a_token_inside_a_character_begins_nowhere() -> None:
    found = starts_of_offsets([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], "a😀b")
    assert found.tolist() == [0, 1, NOWHERE, NOWHERE, 5, 6]


def test_offsets_and_bytes_agree_where_both_know(byte_level: Any) -> None:
    text = "The dress 😀 fits, café and 今日"
    found = byte_level(text, add_special_tokens=False, return_offsets_mapping=True)
    pieces = [token_bytes(byte_level)[i] for i in found["input_ids"]]
    exact, told = starts_of_bytes(pieces, text), starts_of_offsets(found["offset_mapping"], text)
    known = told != NOWHERE
    assert 8 < known.sum() < len(told)
    assert (exact[known] == told[known]).all()  # type: ignore[index]


def test_rows_align_by_hand() -> None:
    assert align([np.array([0, 2, 5])], [np.array([0, 1, 5])]).tolist() == [0, -1, 2]
    two = align([np.array([0, 3]), np.array([0, 4])], [np.array([0, 4]), np.array([-1, 0, 3, 4])])
    assert two.tolist() == [0, -1, 1, 3]


def test_rows_that_begin_nowhere_never_align() -> None:
    assert align([np.array([NOWHERE, 2])], [np.array([NOWHERE, 2])]).tolist() == [-1, 1]


def test_no_texts_and_empty_texts_align_to_nothing() -> None:
    assert align([], []).tolist() == []
    assert align([np.zeros(0, np.int64), np.array([0])], [np.array([0]), np.zeros(0, np.int64)]).tolist() == [-1]
    assert positions([]).tolist() == []


def test_rows_are_found_by_example_and_position() -> None:
    key = np.array([[9, 1], [5, 0], [9, 0], [7, 0]])
    keys = np.array([9, 5])
    owner, wanted = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, -1])
    assert find_rows(key, keys, owner, wanted).tolist() == [2, 0, -1, 1, -1]
    assert find_rows(key[:0], keys, owner, wanted).tolist() == [-1] * 5


def test_a_cut_ends_with_the_end_and_keeps_to_its_limit(byte_level: Any) -> None:
    text = "The dress"
    assert TokenizerCut(byte_level).starts([text])[0].tolist() == [0, 3, 9]
    assert TokenizerCut(byte_level, limit=2).starts([text])[0].tolist() == [0, 3]
    assert TokenizerCut(byte_level, before=" ").starts([text])[0].tolist()[0] == -1
    assert TokenizerCut(byte_level, before=" ").starts([text, ""])[1].tolist() == []
    assert TokenizerCut(byte_level).starts([]) == []


def test_cuts_that_differ_have_other_identities(byte_level: Any, sentence_pieces: Any) -> None:
    cuts = [(byte_level, "", None), (byte_level, " ", None), (byte_level, "", 9), (sentence_pieces, "", None)]
    assert len({TokenizerCut(*cut).identity for cut in cuts}) == 4
    assert TokenizerCut(byte_level, "", 9).identity == TokenizerCut(byte_level, "", 9).identity


def test_a_tokenizer_that_changes_the_text_is_cut_by_its_offsets() -> None:
    # "good" ends at 4, "," at 5, "so" at 8, "dress" at 14, "es" at 16; the first token stands for " good"
    assert TokenizerCut(_lower_words()).starts(["Good, so DRESSES"])[0].tolist() == [-1, 4, 5, 8, 14, 16]


@pytest.mark.parametrize("swapped", [False, True])
@SHARED
@given(text=TEXT)
def test_aligned_rows_come_after_the_same_bytes(
    text: str, swapped: bool, byte_level: Any, sentence_pieces: Any
) -> None:
    ours, theirs = (byte_level, sentence_pieces)[:: -1 if swapped else 1]
    place = align(TokenizerCut(ours).starts([text]), TokenizerCut(theirs).starts([text]))
    before = [_prefixes(tokenizer, text) for tokenizer in (ours, theirs)]
    assert len(place) == len(before[0])
    for row, other in enumerate(place):
        if other >= 0:
            assert before[0][row] == before[1][other]
        else:
            assert before[0][row] not in before[1]
    assert place[-1] == len(before[1]) - 1  # both say the end after the whole text


def _prefixes(tokenizer: Any, text: str) -> list[bytes | None]:
    """Return the bytes of the text before each row; None before the space that is put in front."""
    pieces = token_bytes(tokenizer)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    whole = [b"".join(pieces[i] or b"" for i in ids[:count]) for count in range(len(ids) + 1)]
    front = len(whole[-1]) - len(text.encode())
    return [prefix[front:] if len(prefix) >= front else None for prefix in whole]


@SHARED
@given(texts=st.lists(TEXT, max_size=4))
def test_a_tokenizer_aligns_with_itself_row_by_row(texts: list[str], byte_level: Any) -> None:
    starts = TokenizerCut(byte_level).starts(texts)
    assert align(starts, starts).tolist() == positions(starts).tolist()
