"""What is told of a search for a prompt: gains with their intervals, no gain plainly, and where prompts came from."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from attar.report.advice import advise
from attar.report.html import render
from attar.report.lineage import lineage, made_line
from attar.report.plots import figures
from attar.report.prompt_card import fenced, prompt_card
from attar.report.prompt_parts import diff_lines, prompt_section
from attar.report.prompts import (
    gain_line,
    how_made,
    left_out_line,
    outcome_line,
    prompt_cells,
    result,
    search_cost,
    student_line,
    teacher_search,
)
from attar.report.tables import prompts_table, student_prompts_table


def _shown(table: Any, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_gain_is_told_with_its_interval(searched: dict[str, Any]) -> None:
    search = teacher_search(searched)
    assert result(search) == "GAIN"
    assert outcome_line(searched).startswith("“statement~del+2” is used in place of the recipe's own prompt: its gain")
    assert "+12.5 points [5.8, 19.2] on 120 held-out examples, p = 0.00031." in gain_line(search, "accuracy")
    assert search_cost(search) == "The search tried 8 prompts: 1 min 1 s, 184,220 tokens."
    assert "instructions (no model writes), token_gradient" in left_out_line(search)


def test_no_gain_is_said_plainly(unproven: dict[str, Any]) -> None:
    assert result(teacher_search(unproven)) == "NO GAIN"
    assert outcome_line(unproven) == (
        "No gain: +0.008 on 120 held-out examples may be luck (p = 0.42). The recipe's own prompt is used."
    )
    page = render(unproven)
    assert '<span class="badge">NO GAIN</span>' in page
    assert "The winner of the race, not used: statement~del+2" in page
    assert "What changed, line by line" not in page


def test_the_recipes_own_prompt_read_otherwise_is_said_to_be_that() -> None:
    row = {"name": "recipe", "calibration": "batch", "left": "won", "score": 0.9, "n": 90}
    search = {"kept": True, "why": "its gain is no luck", "gain": {"value": 0.1}, "tried": [row]}
    said = "The recipe's own prompt is used with batch calibration: its gain is no luck."
    assert outcome_line({"prompt": {"teacher": search}}) == said
    lost = {**search, "kept": False, "why": "no gain", "before": {"name": "recipe"}}
    pair = prompt_section({"prompt": {"teacher": lost}})["pair"]
    assert [one["title"] for one in pair] == ["The teacher's prompt", "The winner of the race, not used"]
    assert pair[1]["facts"] == {"calibration": "batch"}


def test_a_winner_that_nothing_judged_is_not_called_a_gain() -> None:
    search = {"kept": True, "why": "not proven: no validation examples were held out to judge it", "gain": None}
    assert result(search) == "NOT PROVEN"
    assert gain_line(search, "accuracy") == ""


def test_a_gain_in_nats_is_no_percentage() -> None:
    gain = {"value": 0.4, "low": 0.1, "high": 0.7, "n": 80, "p": 1e-9}
    search = {"criterion": "mean log-odds of the gold label on validation", "gain": gain}
    said = gain_line(search, search["criterion"])
    assert said.endswith("+0.40 nats [0.10, 0.70] on 80 held-out examples, p < 0.0001.")
    tried = [{"name": "a", "score": 0.4, "low": 0.1, "high": 0.7, "n": 80, "left": "won"}]
    summary = {"metric": {"name": "accuracy"}, "prompt": {"teacher": {**search, "tried": tried}}}
    assert prompt_cells(summary)[0]["score"] == "0.4 [0.1, 0.7]"
    assert figures(summary)["prompts"].data[0].x == (0.4,)
    assert figures(summary)["prompts"].layout.xaxis.title.text == "mean log-odds of the gold label, nats"


def test_scores_on_few_examples_do_not_stand_above_those_on_many(searched: dict[str, Any]) -> None:
    tried = searched["prompt"]["teacher"]["tried"]
    tried[5]["score"] = 0.99  # of 32 examples
    assert [int(cells["n"]) for cells in prompt_cells(searched)] == [180, 180, 180, 180, 64, 32, 32]
    assert prompt_cells(searched)[0]["name"] == "statement~del+2"


def test_how_a_prompt_was_made_and_is_read() -> None:
    assert how_made({"how": "bank", "calibration": "none"}) == "bank"
    assert how_made({"calibration": [-1.0, 0.2]}) == ""


def test_descent_of_the_winner_and_of_all(searched: dict[str, Any]) -> None:
    assert made_line(teacher_search(searched)) == (
        "The winner was made of “statement”: first 2 demonstrations; then phrase deleted: of this review."
    )
    tree = [(line.depth, line.name) for line in lineage(searched)]
    assert tree == [(0, "statement"), (1, "statement+2"), (2, "statement~del+2"), (1, "statement×question+3")]
    assert [line.name for line in lineage(searched) if line.won] == ["statement~del+2"]
    assert "(with question/negative)" in lineage(searched)[3].how


@pytest.mark.parametrize("parents", [["a"], ["b"], ["gone"], "b", None, [None, 3]])
def test_odd_descent_ends(parents: object) -> None:
    tried = [{"name": "a", "parents": parents, "left": "won"}, {"name": "b", "parents": ["a"]}]
    summary = {"prompt": {"teacher": {"tried": tried}}}
    assert isinstance(made_line(summary["prompt"]["teacher"]), str)
    assert len(lineage(summary)) <= 2


def test_a_long_line_of_descent_stays_on_the_page() -> None:
    tried = [{"name": str(i), "parents": [str(i - 1)] if i else []} for i in range(40)]
    depths = [line.depth for line in lineage({"prompt": {"teacher": {"tried": tried}}})]
    assert len(depths) == 40
    assert max(depths) == 8


def test_the_section_shows_both_prompts_and_what_changed(searched: dict[str, Any]) -> None:
    page = render(searched)
    assert "I love this dress: great color" in page
    assert '<span class="added">+ The sentiment is</span>' in page
    assert '<span class="dropped">− Sentiment:</span>' in page
    assert "not scored: 1" in page
    for part in ("accuracy on test", "prefix-16", "12.4", "What was made of what", "Left out: instructions"):
        assert part in page


def test_an_older_summary_still_has_its_section(full: dict[str, Any], minimal: dict[str, Any]) -> None:
    section = prompt_section(full)
    assert (section["result"], section["outcome"], section["gain"], section["tree"]) == ("", "", "", [])
    assert [one["title"] for one in section["pair"]] == [
        "The teacher's prompt before the search",
        "The teacher's prompt after the search",
    ]
    assert len(section["tried"]) == 14
    assert not any(prompt_section(minimal).values())


@pytest.mark.parametrize("odd", [None, "text", 3, [None, 3], {"a": None}])
def test_every_part_of_a_search_may_be_missing_or_odd(searched: dict[str, Any], odd: object) -> None:
    for side in ("teacher", "student"):
        for key in searched["prompt"][side]:
            prompt = {**searched["prompt"], side: {**searched["prompt"][side], key: odd}}
            assert "</html>" in render({**searched, "prompt": prompt})


def test_markup_in_prompts_stays_words(searched: dict[str, Any]) -> None:
    evil = "</pre><script>alert(1)</script>"
    teacher = searched["prompt"]["teacher"]
    teacher["after"]["text"] = teacher["tried"][0]["instruction"] = teacher["tried"][1]["how"] = evil
    teacher["diff"] = f"--- a\n+++ b\n@@ -1 +1 @@\n+{evil}"
    teacher["left_out"] = {evil: evil}
    searched["prompt"]["student"]["tried"][0]["name"] = evil
    assert "<script>alert" not in render(searched)


def test_tables_of_the_terminal(searched: dict[str, Any]) -> None:
    text = _shown(prompts_table(searched))
    assert "first 2 demonstrations; batch calibration" in text
    assert "negative, positive" in text
    narrow = _shown(prompts_table(searched, width=90), width=90)
    assert "88.3 % [84.6, 92.0]" in narrow
    assert "negative, positive" not in narrow
    assert "soft-16" in _shown(student_prompts_table(searched))
    assert student_line(searched).startswith("The student's prompt was kept: its gain of +0.021")


def test_the_page_of_a_prompt(searched: dict[str, Any]) -> None:
    search = teacher_search(searched)
    page = prompt_card({**search, "text": "a ``` b\n{text}"}, "my|run")
    assert page.startswith("# The prompt of my\\|run\n\n**“statement~del+2” is used")
    assert "````text\na ``` b\n{text}\n````" in page
    assert "```diff\n--- recipe" in page
    assert "    - **statement~del+2**: phrase deleted" in page
    assert page.count("\n| ") == 9
    assert fenced("", "text") == ""


def test_a_diff_keeps_lines_that_look_like_its_own_marks() -> None:
    diff = "--- a\n+++ b\n@@ -1,2 +1,2 @@\n---- old\n++++ new\n same"
    assert diff_lines(diff) == [("dropped", "--- old"), ("added", "+++ new"), ("", "same")]
    assert diff_lines("") == []


def _told(summary: dict[str, Any], start: str) -> list[str]:
    return [advice.text for advice in advise(summary) if advice.text.startswith(start)]


def test_a_gain_that_was_not_proven_is_told_with_what_would_prove_it(unproven: dict[str, Any]) -> None:
    start = "A better prompt may be there"
    assert not _told(unproven, start)  # 39 times as many
    gain = unproven["prompt"]["teacher"]["gain"]
    gain |= {"value": 0.04, "low": -0.01, "high": 0.09}
    assert "+4.0 points [−1.0, 9.0] on 120 held-out examples" in _told(unproven, start)[0]
    assert "about 190 would show it" in _told(unproven, start)[0]
    gain["value"] = -0.01
    assert not _told(unproven, start)


def test_a_proven_gain_that_is_not_seen_on_test_is_not_called_chance(searched: dict[str, Any]) -> None:
    searched["prompt"]["teacher"]["before"]["quality"]["value"] = 0.9
    (said,) = _told(searched, "The prompt that won on 180 validation examples")
    assert "validation examples may be of another kind" in said
