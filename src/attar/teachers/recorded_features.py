"""Answer from a record with what the teacher's layers gave, so that students compare features without the teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from attar.core.examples import Examples
from attar.core.nouns import Signal
from attar.core.rows import Rows
from attar.teachers.feature_shards import FeatureShards
from attar.teachers.recorded import RecordedTeacher


class RecordedFeatures:
    """Answer as a recorded teacher does, with features; asking in any order, any batch, gives the same.

    Args:
        teacher: answers with scores.
        folder: holds the features of the same examples; see `attar.teachers.feature_shards`.

    Raises:
        AttarError: the folder holds no whole record of features.
    """

    def __init__(self, teacher: RecordedTeacher, folder: Path) -> None:
        self.teacher = teacher
        self.shards = FeatureShards(folder)
        self.gives: frozenset[Signal] = teacher.gives | frozenset[Signal]({"features"})
        self.fingerprint = teacher.fingerprint

    def answer(self, examples: Examples) -> Rows:
        """Return the recorded rows with features, those in float32 and in the examples' order.

        Texts are padded to the longest of these examples; the feature ``mask`` tells tokens from padding.

        Raises:
            AttarError: an example was never recorded, or a shard is damaged.
        """
        return replace(self.teacher.answer(examples), features=self.shards.read(examples.keys))
