"""The recipe `titles`, cut small: a real language model is tuned and recorded, and some of its layers are distilled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

CUT = (
    *("data.train=64", "data.validation=24", "data.test=24", "teacher.train.steps=3", "teacher.train.batch_size=8"),
    *("teacher.train.validations=1", "distill.steps=6", "distill.batch_size=8", "distill.validations=1"),
    *("student.layers=[0,1,2,28,29]", "measure.texts=5", "measure.warmup=1", "measure.resamples=1000"),
)


@pytest.fixture(scope="module")
def titles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    place = tmp_path_factory.mktemp("titles")
    environment = {**os.environ, "ATTAR_CACHE": str(place / "cache"), "ATTAR_RUNS": str(place / "runs")}
    environment.pop("HF_HUB_OFFLINE", None)
    words = [word for one in CUT for word in ("--set", one)]
    command = [sys.executable, "-m", "attar", "run", "titles", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-4000:]
    return place / "runs" / "titles", environment


def _models(folder: Path) -> dict[str, dict[str, Any]]:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {model["name"]: model for model in summary["models"]}


def test_every_model_is_measured_on_the_same_tokens(titles: tuple[Path, dict[str, str]]) -> None:
    models = _models(titles[0])
    assert list(models) == ["teacher", "control", "student", "exported"]
    assert len({model["perplexity"]["tokens"] for model in models.values()}) == 1
    for model in models.values():
        assert 0.0 <= model["quality"]["value"] <= 1.0
        assert model["perplexity"]["low"] <= model["perplexity"]["value"] <= model["perplexity"]["high"]
    assert models["teacher"]["perplexity"]["value"] < models["student"]["perplexity"]["value"]
    assert models["student"]["parameters"] * 2 < models["teacher"]["parameters"]


def test_the_checks_of_shift_mask_and_record_passed(titles: tuple[Path, dict[str, str]]) -> None:
    summary = json.loads((titles[0] / "summary.json").read_text(encoding="utf-8"))
    names = " ".join(check["name"] for check in summary["preflight"])
    assert all(check["passed"] for check in summary["preflight"])
    for part in ("causal shift", "completion's tokens", "blocks of rows", "live and recorded teacher agree"):
        assert part in names
    assert summary["record"]["codec"] == "topk"
    assert summary["record"]["fidelity"]["bytes_per_row"] < 140


def test_the_bundle_loads_in_plain_transformers_and_writes(titles: tuple[Path, dict[str, str]]) -> None:
    from transformers import AutoModelForCausalLM

    folder, environment = titles
    model = AutoModelForCausalLM.from_pretrained(folder / "bundle")
    assert sum(p.numel() for p in model.parameters()) == _models(folder)["exported"]["parameters"]
    command = [sys.executable, "-m", "attar", "predict", "titles", "Soft and warm, I wear it every day."]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    assert set(json.loads(said.stdout)) == {"input", "text"}
