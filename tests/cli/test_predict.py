"""``attar predict`` for a bundle of a model that writes, and what others say of such a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar import api
from attar.errors import AttarError
from attar.exporters.bundle import CARD, Bundle
from attar.stages.export import export_folder
from attar.students import folder as students
from attar.tasks.writing import write

TEXTS = ["a fine warm jacket", "the zip broke after one week", "größer als gedacht"]

Attar = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bundle(writer: Callable[..., Any], tmp_path: Path) -> Path:
    """Return the folder of a bundle that writes."""
    folder = tmp_path / "runs" / "titles" / "bundle"
    students.save(writer(), tmp_path / "student")
    export_folder(tmp_path / "student", "text-generation", folder)
    (folder.parent / "summary.json").write_text("{}", encoding="utf-8")
    return folder


def test_predict_writes_what_the_model_writes(attar: Attar, bundle: Path) -> None:
    model = students.load(bundle)
    wanted = [{"input": text, "text": write(model, [text])[0][0]} for text in TEXTS]
    assert len({one["text"] for one in wanted}) > 1
    status, said, _ = attar("predict", str(bundle), *TEXTS)
    assert status == 0
    assert [json.loads(line) for line in said.splitlines()] == wanted
    assert attar("predict", "titles", *TEXTS)[1] == said


def test_predict_reads_texts_from_a_file(attar: Attar, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, ""]), encoding="utf-8")
    said = attar("predict", str(bundle), "--file", str(tmp_path / "texts.txt"), "--threads", "1")[1]
    assert [json.loads(line)["input"] for line in said.splitlines()] == TEXTS


def test_a_damaged_bundle_that_writes_is_refused(attar: Attar, bundle: Path) -> None:
    with (bundle / "tokenizer_config.json").open("a", encoding="utf-8") as handle:
        handle.write(" ")
    status, said, error = attar("predict", str(bundle), "a text")
    assert (status, said) == (2, "")
    assert "tokenizer_config.json is damaged" in error


def test_a_bundle_that_writes_is_not_loaded_by_onnxruntime(bundle: Path) -> None:
    for load in (Bundle, api.load):
        with pytest.raises(AttarError, match="holds a model that writes") as refused:
            load(bundle)
        assert f'attar predict {bundle} "a text of yours"' in str(refused.value)


def test_a_card_of_another_version_is_refused(attar: Attar, bundle: Path) -> None:
    (bundle / CARD).write_text('{"schema": 99}', encoding="utf-8")
    status, _, error = attar("predict", str(bundle), "a text")
    assert status == 2
    assert "of another kind or version" in error
