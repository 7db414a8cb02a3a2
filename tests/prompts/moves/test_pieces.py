from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from attar.core.prompt import TextPrompt
from attar.prompts.moves.pieces import gaps, inserted, join, phrases, removals, sentences, without

WORDS = ["Judge", "the", "review,", "and", "say.", "why?", "Review:", "(as", "{options}.", "or", "\n", "\n\n", "  "]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)
TEMPLATES = st.tuples(TEXTS, st.sampled_from(["{text}", "'{text}'", "\n{text}\n"]), TEXTS).map(" ".join)


@given(st.one_of(TEMPLATES, st.text(max_size=40)), st.integers(1, 5))
def test_pieces_make_the_text_again(text: str, longest: int) -> None:
    assert join(phrases(text, longest)) == text.rstrip()
    assert join(sentences(text)) == text.rstrip()
    assert all(1 <= len(piece.body.split()) <= longest for piece in phrases(text, longest))


@given(TEMPLATES, st.data())
def test_edits_keep_every_other_word(text: str, data: st.DataObject) -> None:
    pieces = phrases(text, 3)
    place = data.draw(st.sampled_from(range(len(pieces))))
    left = join(without(pieces, place)).split()
    assert left == [word for i, piece in enumerate(pieces) if i != place for word in piece.body.split()]
    gap = data.draw(st.sampled_from(gaps(pieces)))
    more = join(inserted(pieces, gap, "new words"))
    assert more.split() == [*join(pieces[:gap]).split(), "new", "words", *join(pieces[gap:]).split()]


@given(TEMPLATES)
def test_nothing_is_inserted_into_the_examples_line(text: str) -> None:
    pieces = phrases(text, 3)
    for gap in gaps(pieces):
        (line,) = (line for line in join(inserted(pieces, gap, "NEW")).splitlines() if "{text}" in line)
        assert "NEW" not in line


def test_phrases_end_at_punctuation_places_lines_and_before_conjunctions() -> None:
    text = 'Say "yes." or no; of {options}: choose one\nfor it (all of the words that follow) please'
    assert [piece.body for piece in phrases(text, 4)] == [
        *('Say "yes."', "or no;", "of", "{options}:", "choose one"),
        *("for it (all of", "the words", "that follow) please"),
    ]


def test_removals_leave_the_places_alone_and_keep_lines() -> None:
    prompt = TextPrompt("Review: {text}\nMood, in short:", ("bad", "good"), instruction="Be brief. Say {options}.")
    found = {gone: (left.instruction, left.template) for left, gone in removals(prompt, sentences)}
    assert found == {
        "Be brief.": ("Say {options}.", prompt.template),
        "Mood, in short:": (prompt.instruction, "Review: {text}"),
    }
    found = {gone: (left.instruction, left.template) for left, gone in removals(prompt, lambda text: phrases(text, 4))}
    assert found["Mood,"] == (prompt.instruction, "Review: {text}\nin short:")
    assert found["Say"] == ("Be brief. {options}.", prompt.template)


def test_an_empty_text_has_no_pieces() -> None:
    assert phrases("", 4) == sentences(" \n") == []
    assert join([]) == ""
