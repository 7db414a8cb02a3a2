"""Make the parts of a summary that compression leaves: damage, recovery, a target's plan, dense models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

STEPS = [["vocabulary", {}], ["depth", {"layers": 4}], ["width", {"mlp": 0.25}], ["dynamic_int8", {}]]


def cut_parts(full: Mapping[str, Any]) -> dict[str, Any]:
    """Return what compression adds to a summary."""
    return {
        "models": [*full["models"], *_dense(full["models"][4])],
        "curves": {**full["curves"], "compress_2": _recovery(0.79, 0.871), "compress_3": _recovery(0.84, 0.866)},
        "compress": [
            *full["compress"],
            {
                "step": "width",
                "before": {"parameters": 10_400_000, "mlp": 1536},
                "after": {"parameters": 9_200_000, "mlp": 1152},
                "notes": ["Channels chosen by activation."],
            },
            {"step": "dynamic_int8", "before": {"bytes": 37_000_000}, "after": {"bytes": 9_600_000}, "notes": []},
        ],
        "damage": [
            {"step": "vocabulary", "parameters": 14_000_000, "before": _judged(0.88), "after": _judged(0.88)},
            _damage("depth", 10_400_000, 0.88, 0.79, 0.871, True),
            _damage("width", 9_200_000, 0.871, 0.84, 0.84, False),
        ],
        "beside_dense": [
            _beside("dense", "equal bytes", "NO BEATS", -0.012, -0.021, -0.003),
            _beside("dense_2", "equal milliseconds", "INCONCLUSIVE", 0.004, -0.008, 0.016),
        ],
        "plan": {
            "asked": {"bytes": 14_000_000, "p50": None, "batch": 1, "length": None},
            "steps": STEPS,
            "expected": {"bytes": 13_300_000, "p50": 5.1},
            "tried": [
                {"steps": [], "bytes": 91_000_000, "p50": 12.2},
                {"steps": STEPS, "bytes": 13_300_000, "p50": 5.1},
                {"steps": [["vocabulary", {}], ["dynamic_int8", {}]], "bytes": 15_900_000, "p50": 6.9},
            ],
        },
    }


def _judged(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "loss": -math.log(accuracy)}


def _damage(step: str, parameters: int, before: float, after: float, recovered: float, kept: bool) -> dict[str, Any]:
    qualities = {"before": _judged(before), "after": _judged(after), "recovered": _judged(recovered)}
    return {"step": step, "parameters": parameters, **qualities, "steps": 120, "kept": kept}


def _recovery(start: float, end: float) -> list[dict[str, Any]]:
    shares = [1 - math.exp(-look / 2) for look in range(1, 9)]
    looks = [
        {"seconds": 12.5 * place, "validation": start + (end - start) * share, "validation_loss": 0.4 - 0.2 * share}
        for place, share in enumerate(shares, start=1)
    ]
    rows = [{"step": 15 * place, "epoch": 0.1, "loss": 0.3, **look} for place, look in enumerate(looks, start=1)]
    return [{"step": 1, "epoch": 0.0, "loss": 0.6}, *rows]


def _dense(exported: Mapping[str, Any]) -> list[dict[str, Any]]:
    title = "all-MiniLM-L6-v2 of {} layers, distilled, not cut: {}"
    return [
        {
            **exported,
            "name": "dense",
            "title": title.format(3, "equal bytes"),
            "quality": {"value": 0.883, "low": 0.862, "high": 0.902, "n": 1000},
            "bytes": 13_000_000,
            "latency_ms": {**exported["latency_ms"], "p50": 5.1},
        },
        {
            **exported,
            "name": "dense_2",
            "title": title.format(2, "equal milliseconds"),
            "quality": {"value": 0.867, "low": 0.846, "high": 0.886, "n": 1000},
            "bytes": 12_000_000,
            "latency_ms": {**exported["latency_ms"], "p50": 4.9},
        },
    ]


def _beside(name: str, at: str, result: str, difference: float, low: float, high: float) -> dict[str, Any]:
    claim = f"exported over dense at {at}"
    return {
        "name": name,
        "at": at,
        "claim": claim,
        "result": result,
        "difference": difference,
        "low": low,
        "high": high,
    }
