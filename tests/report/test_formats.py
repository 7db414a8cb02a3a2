"""Numbers for people: units, rounding at their borders, intervals, and what is missing."""

from __future__ import annotations

import pytest

from attar.report import formats


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_499, "999 kB"), (999_500, "1.00 MB"), (269_060_552, "269 MB")],
)
def test_bytes_are_decimal_and_carry_over_at_the_border(value: int, said: str) -> None:
    assert formats.bytes_text(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(9999, "9999"), (10_000, "10.0k"), (134_515_008, "135M"), (1.08e9, "1.08B")]
)
def test_counts(value: float, said: str) -> None:
    assert formats.count_text(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(9.99, "9.99 ms"), (9.999, "10.0 ms"), (99.96, "100 ms"), (0.084, "0.08 ms")]
)
def test_milliseconds_keep_three_digits(value: float, said: str) -> None:
    assert formats.ms_text(value) == said


@pytest.mark.parametrize(("value", "said"), [(59.96, "1 min 0 s"), (59.94, "59.9 s"), (3599.6, "1 h 0 min")])
def test_seconds_never_show_sixty(value: float, said: str) -> None:
    assert formats.seconds_text(value) == said


def test_interval_and_points() -> None:
    assert formats.interval_text(0.868, 0.846, 0.888) == "86.8 % [84.6, 88.8]"
    assert formats.interval_text(0.868, None, 0.888) == "86.8 %"
    assert formats.interval_text(12.345, 11.0, 14.5, "perplexity") == "12.3 [11.0, 14.5]"
    assert formats.points_text(-0.02, -0.04, 0.001) == "−2.0 points [−4.0, 0.1]"
    assert formats.points_text(0.02, 0.0, 0.04) == "+2.0 points [0.0, 4.0]"


def test_an_end_beside_zero_does_not_become_zero() -> None:
    assert formats.points_text(0.02, 0.0002, 0.04) == "+2.00 points [0.02, 4.00]"
    assert formats.points_text(0.5, 0.0004, 1.0, "perplexity") == "+0.5000 [0.0004, 1.0000]"


@pytest.mark.parametrize(
    ("value", "said"),
    [(38256.3, "38,256"), (999.7, "1,000"), (999.4, "999"), (0.00012, "0.00012"), (-1234.5, "−1,234")],
)
def test_numbers_are_not_written_in_powers_of_ten(value: float, said: str) -> None:
    assert formats.number_text(value) == said


@pytest.mark.parametrize(
    "show",
    [
        formats.bytes_text,
        formats.count_text,
        formats.flops_text,
        formats.ms_text,
        formats.seconds_text,
        formats.percent_text,
        formats.ratio_text,
        formats.number_text,
    ],
)
def test_what_is_missing_is_a_dash(show: object) -> None:
    assert callable(show)
    assert show(None) == "–"
