"""Advice: each rule speaks where its numbers do, and only there; what it says is what the summary holds."""

from __future__ import annotations

from typing import Any

import pytest

from attar.report.advice import Advice, advise
from attar.report.card import card
from attar.report.html import render


def _model(name: str, quality: float, half: float = 0.02, **facts: Any) -> dict[str, Any]:
    around = {"value": quality, "low": quality - half, "high": quality + half, "n": 1000}
    return {"name": name, "quality": around, "ece": 0.03, **facts}


def _verdict(difference: float, half: float) -> dict[str, Any]:
    low, high = difference - half, difference + half
    result = "BEATS" if low > 0 else "NO BEATS" if high <= 0 else "INCONCLUSIVE"
    return {"result": result, "difference": difference, "low": low, "high": high, "n": 1000}


def _summary(teacher: float, control: float, student: float, half: float = 0.01, **more: Any) -> dict[str, Any]:
    """Return a summary of three models, 100 to 4 in parameters, and the verdict between the last two."""
    return {
        "metric": {"name": "accuracy", "higher_is_better": True},
        "examples": {"train": 1600, "validation": 300, "test": 1000},
        "control_learns_from": "gold labels",
        "models": [
            _model("teacher", teacher, parameters=100_000_000),
            _model("control", control, parameters=4_000_000),
            _model("student", student, parameters=4_000_000),
        ],
        "verdict": _verdict(student - control, half),
        **more,
    }


def _one(summary: dict[str, Any], start: str) -> Advice:
    found = [advice for advice in advise(summary) if start in advice.text]
    assert len(found) == 1, [advice.text for advice in advise(summary)]
    return found[0]


def _says(summary: dict[str, Any], start: str) -> bool:
    return any(start in advice.text for advice in advise(summary))


GOOD = (0.95, 0.90, 0.94)


def test_a_run_that_went_well_gets_no_advice(full: dict[str, Any], minimal: dict[str, Any]) -> None:
    assert advise(_summary(*GOOD)) == []
    assert advise(full) == []
    assert advise(minimal) == []
    assert advise({}) == []


@pytest.mark.parametrize("odd", [None, "text", 3, [None, 3], {"a": None}, [{"name": 3}]])
def test_odd_parts_are_as_good_as_absent(full: dict[str, Any], odd: object) -> None:
    for key in full:
        assert isinstance(advise({**full, key: odd}), list)


def test_a_teacher_worse_than_the_control() -> None:
    start = "is worse than the control"
    found = _one(_summary(0.85, 0.90, 0.90), start)
    assert found.text.startswith("The teacher (85.0 %) is worse than the control (90.0 %). Give the gold labels more")
    assert found.numbers == pytest.approx({"teacher": 0.85, "teacher_high": 0.87, "control": 0.90})
    taught = _summary(0.85, 0.90, 0.90, control_learns_from="the teacher's hard labels")
    assert "take a better teacher, or gold labels" in _one(taught, start).text
    assert not _says(_summary(0.89, 0.90, 0.90), start)  # inside the interval: not for sure


def test_a_control_as_good_as_the_teacher() -> None:
    start = "there is little to distill"
    found = _one(_summary(0.90, 0.895, 0.897), start)
    assert "The control (89.5 %) lies inside the teacher's interval (90.0 % [88.0, 92.0])" in found.text
    assert found.numbers["control"] == 0.895
    assert not _says(_summary(0.90, 0.895, 0.92), start)  # the student beats the control all the same
    assert not _says(_summary(0.95, 0.90, 0.905), start)  # the teacher is better


def test_a_gap_that_a_much_smaller_student_left() -> None:
    start = "Try an assistant"
    found = _one(_summary(0.95, 0.85, 0.87), start)
    assert "leads the control by 10.0 points and the student recovered 20.0 % of it" in found.text
    assert "with 25 times fewer parameters" in found.text
    assert "assistant of about 20.0M parameters" in found.text  # sqrt(100M x 4M)
    assert found.numbers == pytest.approx({"lead": 0.10, "recovered": 0.20, "times": 25, "assistant": 20_000_000})
    assert "recovered nothing of it" in _one(_summary(0.95, 0.85, 0.84), start).text
    assert not _says(_summary(0.95, 0.85, 0.91), start)  # more than half recovered
    assert not _says(_summary(0.86, 0.85, 0.85), start)  # no lead for sure


def test_a_gap_that_a_student_of_like_size_left() -> None:
    start = "its size is hardly the limit"
    summary = _summary(0.95, 0.85, 0.87)
    for model in summary["models"][1:]:
        model["parameters"] = 20_000_000
    found = _one(summary, start)
    assert "with only 5.0 times fewer parameters" in found.text
    assert "more than these 1,600 examples" in found.text
    assert found.numbers == pytest.approx({"lead": 0.10, "recovered": 0.20, "times": 5, "train": 1600})
    assert not _says(summary, "assistant")
    assert not _says(_summary(0.95, 0.85, 0.87), start)


def test_a_test_set_too_small_for_the_difference() -> None:
    start = "test examples would show it"
    found = _one(_summary(0.95, 0.90, 0.93, half=0.06), start)
    assert "(+3.0 points [-3.0, 9.0])".replace("-", "−") in found.text
    assert "about 4,000 test examples would show it; there are 1,000" in found.text  # (0.06 / 0.03)² x 1000
    assert found.numbers["needed"] == 4000
    assert not _says(_summary(0.95, 0.90, 0.93, half=0.02), start)
    small = _summary(0.95, 0.90, 0.902, half=0.02)
    small["verdict"]["n"] = 40
    assert _one(small, start).numbers["needed"] == 4000  # 100 times as many, which is still few


def test_a_test_set_too_small_for_anything() -> None:
    found = _one(_summary(0.95, 0.90, 0.90, half=0.06), "cannot tell student and control apart")
    assert found.text.startswith("1,000 test examples cannot tell student and control apart (+0.0 points [−6.0, 6.0])")
    assert "about 9,000 would bring the interval down to ±2 points" in found.text  # (0.06 / 0.02)² x 1000
    assert found.numbers["needed"] == 9000
    assert not _says(_summary(0.95, 0.90, 0.90, half=0.01), "cannot tell student and control apart")


def test_a_difference_that_no_test_set_would_show() -> None:
    start = "as good as equal"
    found = _one(_summary(0.95, 0.90, 0.901, half=0.01), start)
    assert "(+0.1 points [−0.9, 1.1], n = 1,000)" in found.text
    assert found.numbers["n"] == 1000
    assert not _says(_summary(0.95, 0.90, 0.901, half=0.01), "would show it")
    assert _says(_summary(0.95, 0.90, 0.90, half=0.01), start)  # 0 is no difference at any size
    assert not _says(_summary(0.95, 0.90, 0.93, half=0.06), start)
    assert not _says(_summary(0.905, 0.90, 0.90, half=0.01), start)  # the teacher's quality says it already
    odd = _summary(0.95, 0.90, 0.901, half=0.01)
    odd["metric"]["name"] = "bleu"  # not a share: what is small is not known
    assert not _says(odd, start)


def _exported(quality: float, agreement: float) -> dict[str, Any]:
    summary = _summary(*GOOD)
    summary["models"].append(_model("exported", quality, parameters=4_000_000))
    summary["checks"] = [{"name": "exported agrees with the PyTorch model", "value": agreement}]
    summary["compress"] = [{"step": "vocabulary"}, {"step": "dynamic_int8"}]
    return summary


def test_what_compression_costs() -> None:
    start = "Compression and export cost"
    found = _one(_exported(0.92, 0.97), start)  # 2.0 points; chance: 1.96 x sqrt(0.03 / 1000) = 1.07
    assert "cost 2.0 points (94.0 % to 92.0 %; they disagree on 3.0 % of the test examples)" in found.text
    assert "(vocabulary, dynamic_int8)" in found.text
    assert found.numbers == {"student": 0.94, "final": 0.92, "agreement": 0.97, "n": 1000}
    assert not _says(_exported(0.93, 0.97), start)  # 1.0 point may be chance
    assert not _says(_exported(0.95, 0.97), start)  # better
    assert not _says(_summary(*GOOD), start)


def test_a_cut_changes_answers_too_and_counts_as_chance() -> None:
    summary = _exported(0.92, 0.97)
    summary["checks"].append({"name": "compressed agrees with the student", "value": 0.95})
    assert "they disagree on at most 8.0 % of the test examples" in _one(summary, "Compression and export cost").text
    summary["checks"][1]["value"] = 0.85  # so many changed answers can cost two points by chance
    assert not _says(summary, "Compression and export cost")


def _raced(before: float, after: float) -> dict[str, Any]:
    prompt = {
        "teacher": {
            "before": {"quality": {"value": before, "n": 400}},
            "after": {"quality": {"value": after, "n": 1000}, "n": 192},
        }
    }
    return _summary(*GOOD, prompt=prompt)


def test_a_prompt_that_won_by_chance() -> None:
    found = _one(_raced(0.86, 0.84), "decided by chance")
    assert "won on 192 validation examples gets 84.0 % on test, the recipe's own 86.0 %" in found.text
    assert found.numbers == {"before": 0.86, "after": 0.84, "n": 192}
    assert not _says(_raced(0.84, 0.86), "decided by chance")


def _confused(teacher: list[list[int]], student: list[list[int]]) -> dict[str, Any]:
    summary = _summary(*GOOD, labels=["calm", "urgent"])
    for place, counts in ((0, teacher), (2, student)):
        summary["models"][place]["confusion"] = counts
    return summary


def test_a_class_that_the_student_lost() -> None:
    start = "distill.prior: teacher"
    found = _one(_confused([[95, 5], [6, 44]], [[99, 1], [40, 10]]), start)
    assert "The student finds 20.0 % of the 50 test examples of 'urgent', its teacher 88.0 %" in found.text
    assert found.numbers == {"teacher_recall": 0.88, "student_recall": 0.2, "n": 50}
    assert not _says(_confused([[95, 5], [6, 44]], [[95, 5], [9, 41]]), start)  # 6 points
    assert not _says(_confused([[95, 5], [1, 9]], [[99, 1], [8, 2]]), start)  # 10 examples
    assert not _says(_confused([[95, 5], [10, 20]], [[95, 5], [14, 16]]), start)  # 13 points of 30 examples: chance


def _curve(losses: list[float], validation: list[float], validation_loss: list[float]) -> dict[str, Any]:
    rows = [
        {"step": 100 * (place + 1), "loss": a, "validation": b, "validation_loss": c}
        for place, (a, b, c) in enumerate(zip(losses, validation, validation_loss, strict=True))
    ]
    return _summary(*GOOD, curves={"student": rows})


def test_overfitting() -> None:
    start = "by heart"
    found = _one(_curve([0.9, 0.5, 0.2, 0.1], [0.8, 0.85, 0.85, 0.84], [0.5, 0.4, 0.42, 0.5]), start)
    assert not _says(_curve([0.9, 0.5, 0.2, 0.1], [0.8, 0.85, 0.85, 0.86], [0.5, 0.4, 0.42, 0.5]), start)
    assert "lowest at step 200 (0.4) and rose to 0.5" in found.text
    assert "these 1,600 examples" in found.text
    assert found.numbers == {"step": 200, "lowest": 0.4, "last": 0.5, "train": 1600}
    assert not _says(_curve([0.9, 0.5, 0.2], [0.8, 0.85, 0.85], [0.5, 0.4, 0.41]), start)
    assert not _says(_curve([0.9, 0.5, 0.6], [0.8, 0.85, 0.85], [0.5, 0.4, 0.5]), start)  # training went wrong too
    assert not _says(_curve([0.9, 0.2], [0.8, 0.85], [0.4, 0.5]), start)  # two looks say nothing


def test_training_that_ended_too_early() -> None:
    start = "Train for more epochs"
    found = _one(_curve([0.9, 0.5, 0.4], [0.70, 0.80, 0.85], [0.6, 0.5, 0.4]), start)
    assert "best before 80.0 %, then 85.0 % at step 300" in found.text
    assert found.numbers == {"before": 0.80, "last": 0.85, "step": 300}
    assert not _says(_curve([0.9, 0.5, 0.4], [0.70, 0.80, 0.805], [0.6, 0.5, 0.4]), start)
    assert not _says(_curve([0.9, 0.5, 0.4], [0.70, 0.85, 0.80], [0.6, 0.5, 0.5]), start)


@pytest.mark.parametrize(("teacher", "student", "says"), [(0.03, 0.08, True), (0.05, 0.08, False), (0.01, 0.04, False)])
def test_calibration(teacher: float, student: float, says: bool) -> None:
    summary = _summary(*GOOD)
    summary["models"][0]["ece"], summary["models"][2]["ece"] = teacher, student
    assert _says(summary, "calibration error rose") is says
    if says:
        found = _one(summary, "calibration error rose from 0.03 (teacher) to 0.08 (student)")
        assert found.numbers == {"teacher_ece": 0.03, "final_ece": 0.08}


def test_a_metric_of_which_less_is_better_gets_no_advice_on_quality() -> None:
    worse = _summary(0.85, 0.90, 0.90)
    worse["metric"] = {"name": "perplexity", "higher_is_better": False}
    assert advise(worse) == []


def test_report_and_card_show_the_advice() -> None:
    summary = _confused([[95, 5], [6, 44]], [[99, 1], [40, 10]])
    summary["labels"] = ["calm", "<b>*urgent*</b>"]
    page, readme = render(summary), card(summary)
    assert "<h2>What to try next</h2>" in page
    assert "of &#39;&lt;b&gt;*urgent*&lt;/b&gt;&#39;, its teacher" in page
    assert "## What to try next\n\n- The student finds 20.0 %" in readme
    assert r"&lt;b>\*urgent\*&lt;/b>" in readme
    for said in (render(_summary(*GOOD)), card(_summary(*GOOD))):
        assert "What to try next" not in said
