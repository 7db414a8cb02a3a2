"""The summary: what of a record's card and of the measurements it copies."""

from __future__ import annotations

from pathlib import Path

from attar.pipeline.summary import _record
from attar.store.artifacts import Artifact
