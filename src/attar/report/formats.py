"""Write numbers for people: one place decides how bytes, counts, times, shares and ratios look."""

from __future__ import annotations

MISSING = "–"
MINUS = "−"
_SHARES = ("accuracy", "f1", "recall", "precision", "map", "ndcg", "auc", "iou", "exact", "agreement", "rouge")
_TITLES = {"rouge_l": "ROUGE-L", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2"}


def _sign(text: str) -> str:
    return text.replace("-", MINUS)


def three_digits(value: float) -> str:
    """Write a number with three significant digits, never in powers of ten, and with no fewer digits than it has.

    Example:
        >>> three_digits(13.42), three_digits(9.999), three_digits(1234.5)
        ('13.4', '10.0', '1,234')
    """
    rounded = abs(float(f"{value:.3g}"))
    if rounded >= 100:
        return _sign(f"{value:,.0f}")
    return _sign(f"{value:.{1 if rounded >= 10 else 2}f}")


def _scaled(value: float, units: tuple[str, ...]) -> tuple[str, str]:
    last = len(units) - 1
    step = 0
    while step < last and abs(float(f"{value:.3g}")) >= 1000:
        value, step = value / 1000, step + 1
    return three_digits(value) if step else _sign(f"{value:,.0f}"), units[step]


def bytes_text(value: float | None) -> str:
    """Write a size in decimal units.

    Example:
        >>> bytes_text(13_412_345), bytes_text(999_999), bytes_text(None)
        ('13.4 MB', '1.00 MB', '–')
    """
    return MISSING if value is None else " ".join(_scaled(value, ("B", "kB", "MB", "GB", "TB")))


def count_text(value: float | None) -> str:
    """Write a large count short; up to 9999 it stays exact.

    Example:
        >>> count_text(22_713_216), count_text(7801), count_text(30522)
        ('22.7M', '7801', '30.5k')
    """
    if value is None:
        return MISSING
    return f"{value:.0f}" if abs(value) < 10_000 else "".join(_scaled(value, ("", "k", "M", "B", "T")))


def flops_text(value: float | None) -> str:
    """Write floating-point operations, a count of one forward pass.

    Example:
        >>> flops_text(1.9e10)
        '19.0 GFLOPs'
    """
    if value is None:
        return MISSING
    number, unit = _scaled(value, ("", "k", "M", "G", "T", "P"))
    return f"{number} {unit}FLOPs"


def ms_text(value: float | None) -> str:
    """Write milliseconds.

    Example:
        >>> ms_text(5.293), ms_text(91.0), ms_text(1234.0)
        ('5.29 ms', '91.0 ms', '1,234 ms')
    """
    return MISSING if value is None else f"{three_digits(value)} ms"


def seconds_text(value: float | None) -> str:
    """Write a duration as a person would say it.

    Example:
        >>> seconds_text(1.23), seconds_text(160.2), seconds_text(7384)
        ('1.2 s', '2 min 40 s', '2 h 3 min')
    """
    if value is None:
        return MISSING
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def percent_text(value: float | None) -> str:
    """Write a share as a percentage.

    Example:
        >>> percent_text(0.868)
        '86.8 %'
    """
    return MISSING if value is None else _sign(f"{100 * value:.1f} %")


def ratio_text(value: float | None) -> str:
    """Write how many times.

    Example:
        >>> ratio_text(17.21), ratio_text(0.5)
        ('17.2×', '0.50×')
    """
    if value is None:
        return MISSING
    return "1×" if value == 1 else f"{three_digits(value)}×"


def times_text(value: float) -> str:
    """Write how many times inside a sentence: whole from ten on.

    Example:
        >>> times_text(17.2), times_text(1.84)
        ('17', '1.8')
    """
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def number_text(value: float | None) -> str:
    """Write a plain number: whole and large ones with thousands apart, others with three digits.

    Example:
        >>> number_text(30522), number_text(0.0402), number_text(-1.5), number_text(38256.3)
        ('30,522', '0.0402', '−1.5', '38,256')
    """
    if value is None:
        return MISSING
    whole = float(value).is_integer() or abs(value) >= 999.5
    return _sign(f"{value:,.0f}" if whole and abs(value) < 1e15 else f"{value:.3g}")


def is_share(metric: str) -> bool:
    """Tell whether a metric is a share of 1, so that it is shown in percent; no name counts as accuracy.

    Example:
        >>> is_share("macro_f1"), is_share("rouge_l"), is_share("perplexity")
        (True, True, False)
    """
    name = metric.lower()
    return not name or any(word in name for word in _SHARES)


def metric_title(metric: str) -> str:
    """Write the name of a metric for people; no name is "quality".

    Example:
        >>> metric_title("macro_f1"), metric_title("rouge_l"), metric_title("")
        ('macro F1', 'ROUGE-L', 'quality')
    """
    return _TITLES.get(metric.lower()) or metric.replace("_", " ").replace("f1", "F1") or "quality"


def metric_text(value: float | None, metric: str = "") -> str:
    """Write a value of a metric: a share in percent, anything else with three digits.

    Example:
        >>> metric_text(0.868, "accuracy"), metric_text(12.345, "perplexity")
        ('86.8 %', '12.3')
    """
    if value is not None and metric == "perplexity":
        return three_digits(value)
    return percent_text(value) if is_share(metric) else number_text(value)


def interval_text(value: float | None, low: float | None, high: float | None, metric: str = "") -> str:
    """Write a value of a metric with its interval.

    Example:
        >>> interval_text(0.868, 0.846, 0.888)
        '86.8 % [84.6, 88.8]'
    """
    if value is None or low is None or high is None:
        return metric_text(value, metric)
    ends = [f"{100 * end:.1f}" if is_share(metric) else metric_text(end, metric) for end in (low, high)]
    return f"{metric_text(value, metric)} [{_sign(ends[0])}, {_sign(ends[1])}]"


def points_text(
    difference: float | None, low: float | None, high: float | None, metric: str = "", unit: str = ""
) -> str:
    """Write a difference with its interval: of shares in percentage points, of anything else in ``unit``.

    An end of the interval that is not 0 is not rounded to 0: which side of 0 it lies on is the verdict.

    Example:
        >>> points_text(0.02, 0.0004, 0.036)
        '+2.00 points [0.04, 3.60]'
        >>> points_text(-0.5, -0.7, -0.3, "perplexity", "nats a token")
        '−0.50 nats a token [−0.70, −0.30]'
    """
    if difference is None:
        return MISSING
    scale, said = (100.0, "points") if is_share(metric) else (1.0, unit)
    ends = [scale * end for end in (low, high) if end is not None]
    decimals = _decimals(ends, 1 if is_share(metric) else 2)
    inside = f" [{', '.join(f'{end:.{decimals}f}' for end in ends)}]" if len(ends) == 2 else ""
    return _sign(f"{scale * difference:+.{decimals}f}{f' {said}' if said else ''}{inside}")


def _decimals(ends: list[float], least: int) -> int:
    """Return how many decimals keep every end that is not 0 from looking like 0."""
    smallest = min((abs(end) for end in ends if end), default=1.0)
    return next((count for count in range(least, 6) if smallest >= 0.5 * 10**-count), 6)
