"""Hold a made-up summary with every part, and the least one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.report.cut import cut_parts


def _model(name: str, title: str, quality: float, **facts: Any) -> dict[str, Any]:
    latency = {"p50": facts.pop("p50"), "p90": facts.pop("p90"), "batch": 1, "threads": 2, "length": 96, "n": 60}
    right = round(quality * 500)
    return {
        "name": name,
        "title": title,
        "quality": {"value": quality, "low": quality - 0.021, "high": quality + 0.02, "n": 1000},
        "ece": 0.04,
        "agreement": 0.95,
        "latency_ms": latency,
        "confusion": [[right - 10, 510 - right], [490 - right, right + 10]],
        **facts,
    }


def _models() -> list[dict[str, Any]]:
    student = {"parameters": 22_713_216, "flops": 3.6e9, "bytes": 90_852_864, "peak_rss_bytes": 610_000_000}
    torch = {"precision": "float32", "runtime": "torch 2.14.1"}
    return [
        _model(
            "teacher",
            "SmolLM2-135M-Instruct, prompted",
            0.868,
            p50=91.0,
            p90=99.0,
            parameters=134_515_008,
            flops=1.9e10,
            bytes=269_060_552,
            peak_rss_bytes=900_000_000,
            precision="bfloat16",
            runtime="torch 2.14.1",
        ),
        _model("control", "all-MiniLM-L6-v2, 6 layers", 0.851, p50=12.1, p90=13.9, **student, **torch),
        _model("student", "all-MiniLM-L6-v2, 6 layers", 0.874, p50=12.0, p90=13.8, **student, **torch),
        _model(
            "compressed",
            "vocabulary 7801, 4 layers",
            0.872,
            p50=8.4,
            p90=9.6,
            parameters=10_400_000,
            flops=2.4e9,
            bytes=41_600_000,
            peak_rss_bytes=540_000_000,
            **torch,
        ),
        _model(
            "exported",
            "ONNX",
            0.871,
            p50=5.29,
            p90=6.1,
            parameters=10_400_000,
            flops=2.4e9,
            bytes=13_412_345,
            peak_rss_bytes=181_000_000,
            precision="int8",
            runtime="onnxruntime 1.31.1",
        ),
    ]


def _tried() -> list[dict[str, Any]]:
    prompts = []
    for index in range(14):
        score = 0.862 - 0.012 * index
        prompts.append(
            {
                "name": f"ask-{index % 4 + 1}/{'chat' if index % 2 else 'plain'}/words-{index % 3 + 1}",
                "template": "Review: {text}\nIs this review good or bad? Answer with one word:",
                "words": ["bad", "good"],
                "chat": bool(index % 2),
                "demonstrations": 0,
                "calibration": "batch" if index % 3 else "none",
                "score": score,
                "low": score - 0.05 - 0.03 * (index > 8),
                "high": score + 0.04 + 0.03 * (index > 8),
                "n": 192 if index < 9 else 48,
                "tokens": 31 + index,
                "left": "won" if index == 0 else "lost" if index < 9 else "raced out after 48",
            }
        )
    return prompts


def _prompt() -> dict[str, Any]:
    before = {
        "name": "recipe",
        "template": "{text}\nSentiment:",
        "words": ["negative", "positive"],
        "chat": False,
        "quality": {"value": 0.71, "low": 0.66, "high": 0.75, "n": 400},
    }
    after = {
        **_tried()[0],
        "calibration": [-1.2, -0.3],
        "quality": {"value": 0.862, "low": 0.826, "high": 0.893, "n": 400},
    }
    return {
        "teacher": {"before": before, "after": after, "criterion": "accuracy on validation", "tried": _tried()},
        "student": {"kept": False, "why": "the interval of its gain includes 0"},
    }


def searched_prompt(kept: bool = True) -> dict[str, Any]:
    """Return the part ``prompt`` as a search with moves leaves it, and a race of the student's prompts."""
    own = {
        "name": "recipe",
        "instruction": "",
        "template": "{text}\nSentiment:",
        "words": ["negative", "positive"],
        "chat": False,
        "demonstrations": 0,
        "calibration": None,
        "text": "{text}\nSentiment:\nwords: negative, positive",
        "tokens": 3,
        "quality": {"value": 0.71, "low": 0.66, "high": 0.75, "n": 400},
    }
    used = {
        **own,
        "name": "statement~del+2",
        "template": "{text}\n\nThe sentiment is",
        "demonstrations": 2,
        "calibration": [-1.2, -0.3],
        "text": (
            "I love this dress: great color, soft and light!\n\nThe sentiment is positive\n\nToo small, too thin; I "
            "sent it back.\n\nThe sentiment is negative\n\n{text}\n\nThe sentiment is\nwords: negative, positive\n"
            "calibration: -1.200, -0.300"
        ),
        "tokens": 41,
        "quality": {"value": 0.862, "low": 0.826, "high": 0.893, "n": 1000},
    }
    gain = {"value": 0.125, "low": 0.058, "high": 0.192, "n": 120, "p": 0.00031}
    lost = {"value": 0.008, "low": -0.042, "high": 0.058, "n": 120, "p": 0.42}
    proven = "its gain of +0.125 on 120 held-out examples is no luck (p = 0.00031)"
    luck = "no gain: +0.008 on 120 held-out examples may be luck (p = 0.42)"
    return {
        "teacher": {
            "before": own,
            "after": used if kept else own,
            "diff": DIFF if kept else "",
            "criterion": "accuracy on validation",
            "why": proven if kept else luck,
            "kept": kept,
            "gain": gain if kept else lost,
            "tried": _searched_tried(),
            "spent": {"seconds": 61.4, "tokens": 184_220.0},
            "left_out": {"instructions": "no model writes", "token_gradient": "the model is not of this process"},
        },
        "student": {
            "kept": True,
            "why": "its gain of +0.021 on 120 held-out examples is no luck (p = 0.011)",
            "gain": {"value": 0.021, "low": 0.004, "high": 0.038, "n": 120, "p": 0.011},
            "tried": [
                _raced("none", "none", 0.842, 0, 8.1, "lost"),
                _raced("statement", "text", 0.848, 12, 11.2, "lost"),
                _raced("statement, batch", "calibrated", 0.855, 12, 11.2, "lost"),
                _raced("soft-16", "soft", 0.863, 16, 12.4, "won"),
                _raced("prefix-16", "prefix", 0.859, 16, 9.9, "worse for sure after 64"),
            ],
        },
    }


DIFF = (
    "--- recipe\n+++ statement~del+2\n@@ -1,3 +1,12 @@\n+I love this dress: great color, soft and light!\n+\n"
    "+The sentiment is positive\n+\n {text}\n-Sentiment:\n+\n+The sentiment is\n words: negative, positive"
)


def _raced(name: str, kind: str, score: float, tokens: int, ms: float, left: str) -> dict[str, Any]:
    known = {"name": name, "kind": kind, "tokens": tokens, "ms": ms, "left": left, "n": 300}
    return {**known, "score": score, "low": score - 0.02, "high": score + 0.02}


def _searched_tried() -> list[dict[str, Any]]:
    rows = [
        ("statement~del+2", ["statement+2"], "phrase deleted: of this review", 2, "won", 0.883, 180),
        ("statement+2", ["statement"], "first 2 demonstrations", 1, "lost in the last round", 0.878, 180),
        ("statement", [], "bank", 0, "lost in the last round", 0.85, 180),
        (
            "statement×question+3",
            ["statement", "question/negative"],
            "crossed",
            2,
            "not among the best after 180",
            0.8,
            180,
        ),
        ("question/negative", [], "bank", 0, "not among the best after 64", 0.797, 64),
        ("opinion", [], "bank", 0, "among the worse half after 32", 0.719, 32),
        ("recipe", [], "bank", 0, "worse for sure after 32", 0.656, 32),
    ]
    made = [
        {
            "name": name,
            "instruction": "Judge the review." if "question" in name else "",
            "template": "{text}\n\nThe sentiment is",
            "words": ["negative", "positive"],
            "chat": False,
            "demonstrations": int(name[-1]) if name[-1].isdigit() else 0,
            "calibration": "batch" if generation else "none",
            "tokens": 12 + 14 * generation,
            "parents": parents,
            "how": how,
            "generation": generation,
            "left": left,
            "score": score,
            "low": score - 0.5 / n**0.5,
            "high": min(1.0, score + 0.5 / n**0.5),
            "n": n,
        }
        for name, parents, how, generation, left, score, n in rows
    ]
    return [*made, {**made[-1], "name": "late", "left": "not scored", "n": 0, "score": None}]


def _curve(end: float, top: float) -> list[dict[str, Any]]:
    return [
        {
            "step": 25 * step,
            "epoch": 0.25 * step,
            "loss": end + 0.6 * math.exp(-step / 4),
            "learning_rate": 1e-4,
            "validation": top - 0.3 * math.exp(-step / 3),
        }
        for step in range(1, 17)
    ]


def _stage(stage: str, parents: list[str], seconds: float, note: str = "", reused: bool = False) -> dict[str, Any]:
    return {
        "stage": stage,
        "key": f"key-{stage}",
        "parents": parents,
        "seconds": seconds,
        "note": note,
        "reused": reused,
    }


def _pipeline() -> list[dict[str, Any]]:
    return [
        _stage("data", [], 1.2, "2900 reviews", True),
        _stage("teacher", [], 3.4, "SmolLM2-135M-Instruct, bfloat16"),
        _stage("tune", ["data", "teacher"], 142.0, "14 prompts tried"),
        _stage("record", ["data", "tune"], 160.2, "1900 answers, 8 bytes each"),
        _stage("distill", ["data", "record"], 121.0, "student, 400 steps"),
        _stage("control", ["data", "record"], 118.0, "no teacher's scores, 400 steps"),
        _stage("compress", ["distill", "record"], 62.0, "vocabulary, 4 layers"),
        _stage("export", ["compress"], 9.1, "ONNX, int8"),
        _stage("measure", ["export", "control", "teacher"], 48.0, "1000 test examples"),
    ]


def _checks() -> dict[str, Any]:
    return {
        "preflight": [
            {"name": "student := teacher gives loss 0", "passed": True, "value": "0.0"},
            {"name": "weight 0 equals the term left out", "passed": True, "value": 1.2e-7},
            {"name": "CE : KD gradient ratio", "passed": True, "value": 1.83, "rule": "0.1 to 10"},
        ],
        "checks": [
            {"name": "exported agrees with the PyTorch model", "value": 0.996, "rule": ">= 0.99", "passed": True},
            {"name": "bundle loads without torch", "value": "yes", "rule": "", "passed": True},
        ],
    }


def full_summary() -> dict[str, Any]:
    """Return a summary with every part of schema 1."""
    return {
        "schema": 1,
        "name": "reviews",
        "attar": "0.1.0",
        "task": "text-classification",
        "metric": {"name": "accuracy", "higher_is_better": True},
        "labels": ["negative", "positive"],
        "examples": {"train": 1600, "validation": 300, "test": 1000},
        "gold": ["validation", "test"],
        "control_learns_from": "the teacher's hard labels",
        "models": _models(),
        "prompt": _prompt(),
        "curves": {"student": _curve(0.12, 0.88), "control": _curve(0.2, 0.855)},
        "compress": [
            {
                "step": "vocabulary",
                "before": {"parameters": 22_713_216, "vocabulary": 30522},
                "after": {"parameters": 14_000_000, "vocabulary": 7801},
                "notes": ["Kept every token of the training texts and all single bytes."],
            },
            {
                "step": "layers",
                "before": {"parameters": 14_000_000, "layers": 6},
                "after": {"parameters": 10_400_000, "layers": 4},
                "notes": ["Recovered for 200 steps against the teacher's record."],
            },
        ],
        **_checks(),
        "verdict": {
            "claim": "student over control",
            "result": "BEATS",
            "difference": 0.023,
            "low": 0.004,
            "high": 0.042,
            "n": 1000,
            "method": "paired bootstrap over test examples, 10000 resamples, 95 %",
        },
        "pipeline": _pipeline(),
        "conditions": {
            "processor": "AMD EPYC 7B13",
            "cores": 2,
            "threads": 2,
            "torch": "2.14.1",
            "onnxruntime": "1.31.1",
            "python": "3.11.7",
            "date": "2026-11-24",
        },
        "seconds": {"tune": 142.0, "record": 160.2, "distill": 121.0, "control": 118.0, "total": 665.4},
        "peak_rss_bytes": 3_100_000_000,
    }


@pytest.fixture
def full() -> dict[str, Any]:
    """Return a summary with every part of schema 1."""
    return full_summary()


@pytest.fixture
def minimal() -> dict[str, Any]:
    """Return the least that may be called a summary."""
    return {"schema": 1, "models": [{"name": "student"}]}


@pytest.fixture
def cut(full: dict[str, Any]) -> dict[str, Any]:
    """Return a summary of a run whose student was cut to a target in two steps, with dense models beside it."""
    return {**full, **cut_parts(full)}


@pytest.fixture
def searched(full: dict[str, Any]) -> dict[str, Any]:
    """Return a summary whose prompt was searched for with moves, and won."""
    return {**full, "prompt": searched_prompt()}


@pytest.fixture
def unproven(full: dict[str, Any]) -> dict[str, Any]:
    """Return a summary of a search that proved no gain."""
    return {**full, "prompt": searched_prompt(kept=False)}
