"""The summary: what of a record's card it copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.pipeline.summary import _record
from attar.store.artifacts import Artifact


def _done(card: dict[str, Any]) -> dict[str, Artifact]:
    return {"record": Artifact("key", "record", Path(), {}, card)}


def test_what_asking_cost_is_copied_from_the_record() -> None:
    spent = {"calls": 3, "dollars": 0.5}
    card = {"rows": 4, "calls": 2, "examples": 3, "spent": spent, "preflight": [], "schema": 1}
    assert _record(_done(card)) == {"rows": 4, "calls": 2, "examples": 3, "spent": spent}


def test_a_run_without_a_record_has_none() -> None:
    assert _record({}) is None
