"""A bundle of a language model with a prompt must answer as the model does, from plain strings alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from attar.core.examples import DataSet, Examples
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.exporters.bundle import CARD, Bundle, read_card
from attar.exporters.onnx import OnnxExporter
from attar.stages import export as stage
from attar.stages.export import export
from attar.students import folder as students
from attar.tasks.text_classification import TextClassification, text_ids

SHOWN = (("soft and warm", 0), ("the zip broke {text}", 1))
PLAIN = TextPrompt("Review: {text}\nSentiment:", ("good", "bad"))
PROMPTS = {
    "running": PLAIN,
    "shown": replace(PLAIN, demonstrations=SHOWN, instruction="Is the review {options}?", calibration=(-0.2, -1.7)),
    "chat": TextPrompt("{text}", ("good", "bad"), True, SHOWN[:1], instruction="Say {options}."),
}
TEXTS = ["a fine warm jacket", "", "too small; " * 30, "  edges \n", "größer 😀 als {text}", "I love it <eos> so much"]
TASK = TextClassification()
pytestmark = pytest.mark.usefixtures("kept_graphs")
Maker = Callable[..., Model]


def data_of(texts: list[str]) -> DataSet:
    """Return a data set whose splits are all the same texts, with labels in turn."""
    examples = Examples(np.arange(len(texts)), texts, np.arange(len(texts)) % 2)
    return DataSet(("fine", "bad"), examples, examples, examples, frozenset({"train", "validation", "test"}))


def exported(model: Model, tmp_path: Path, steps: Any = ()) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a model's bundle and the stage's facts."""
    students.save(model, tmp_path / "student")
    (tmp_path / "work").mkdir(exist_ok=True)
    facts = export(
        tmp_path / "student", "text-classification", steps, data_of(TEXTS), (tmp_path / "work", tmp_path / "bundle")
    )
    return tmp_path / "bundle", facts


def _said(model: Model, texts: list[str]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(TASK.rows(model, TASK.collate(model, data_of(texts).train)).dense())


@pytest.mark.parametrize("name", PROMPTS)
def test_the_bundle_reads_and_says_what_the_model_does(name: str, label_reader: Maker, tmp_path: Path) -> None:
    model = label_reader(PROMPTS[name])
    folder, facts = exported(model, tmp_path)
    bundle = Bundle(folder, threads=1)
    assert [bundle.tokens(text) for text in TEXTS] == text_ids(model, TEXTS)
    assert [bundle.length(text) for text in TEXTS] == [len(ids) for ids in text_ids(model, TEXTS)]
    assert np.abs(bundle.scores(TEXTS) - _said(model, TEXTS)).max() < 1e-5
    assert [check["passed"] for check in facts["preflight"]] == [True, True]
    card = read_card(folder)["input"]
    assert card["calibration"] == (None if name != "shown" else [-0.2, -1.7])
    assert card["max_length"] == 24


def test_a_template_that_trims_is_followed_without_it(label_reader: Maker, tmp_path: Path) -> None:
    model = label_reader()
    template = model.processor.chat_template.replace("m['content'] }}", "m['content'] | trim }}")
    model.processor.chat_template = template
    model.facts["prompt"] = PROMPTS["chat"].to_json()
    bundle = Bundle(exported(model, tmp_path)[0], threads=1)
    assert bundle.tokens("  edges \n") == bundle.tokens("edges") == text_ids(model, ["  edges \n"])[0]


def test_of_the_head_only_the_words_are_kept(label_reader: Maker, tmp_path: Path) -> None:
    model = label_reader(layers=1)
    network: Any = model.module
    network.lm.lm_head.weight = torch.nn.Parameter(torch.randn_like(network.lm.lm_head.weight))  # no more tied
    OnnxExporter().export(model, tmp_path / "m.onnx")
    graph = onnx.load(str(tmp_path / "m.onnx")).graph
    shapes = Counter(tuple(tensor.dims) for tensor in graph.initializer)
    assert shapes[network.lm.lm_head.weight.shape] == 1  # the embeddings
    assert shapes[(2, 32)] == 1
    assert [value.type.tensor_type.shape.dim[1].dim_value for value in graph.output] == [2]


def test_every_product_with_weights_is_quantized(label_reader: Maker, tmp_path: Path) -> None:
    model = label_reader(PROMPTS["shown"])
    folder, facts = exported(model, tmp_path, [("dynamic_int8", {})])
    bundle = Bundle(folder, threads=1)
    kinds = Counter(node.op_type for node in onnx.load(str(folder / "model.onnx")).graph.node)
    assert kinds["MatMulInteger"] == 2 * 7 + 1  # of each layer, and the label words' rows of the head
    assert kinds["MatMul"] == 2 * 2  # queries by keys, and shares by values
    assert facts["precision"] == read_card(folder)["precision"] == "int8"
    off = np.abs(bundle.scores(TEXTS) - _said(model, TEXTS)).max()
    assert 0 < off < 0.25 * np.ptp(_said(model, TEXTS))
    assert facts["plans"][0]["after"]["bytes"] < facts["plans"][0]["before"]["bytes"]


@pytest.mark.parametrize("kind", ["soft", "prefix"])
def test_a_trained_prompt_is_part_of_the_graph(kind: str, label_reader: Maker, tmp_path: Path) -> None:
    from attar.prompts.kinds.make import add_prompt
    from attar.prompts.kinds.settings import SoftSettings

    plain = label_reader(layers=1)
    before = _said(plain, TEXTS)
    torch.manual_seed(0)
    model = add_prompt(plain, SoftSettings(kind=kind, length=3, init="random"))
    model.module.prompt.values.data.normal_()  # type: ignore[union-attr, operator]
    bundle = Bundle(exported(model, tmp_path)[0], threads=1)
    wanted = _said(model, TEXTS)
    assert np.abs(bundle.scores(TEXTS) - wanted).max() < 1e-4
    assert np.abs(wanted - before).max() > 1e-2
    assert bundle.card["input"]["virtual_tokens"] == 3


def test_a_bundle_that_reads_otherwise_is_not_written(
    label_reader: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = stage._input
    monkeypatch.setattr(stage, "_input", lambda model: {**own(model), "after": "\nMood:"})
    with pytest.raises(AttarError, match="the bundle's tokenizer equals the student's"):
        exported(label_reader(), tmp_path)
    assert not (tmp_path / "bundle" / CARD).exists()


def test_predict_answers_without_torch(label_reader: Maker, tmp_path: Path) -> None:
    model = label_reader(PROMPTS["chat"])
    folder, _ = exported(model, tmp_path)
    code = (
        "import sys\nfrom attar import cli\nsys.argv = ['attar', 'predict', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), "--threads", "1", *TEXTS], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["label"] for line in lines] == [["fine", "bad"][place] for place in _said(model, TEXTS).argmax(1)]
    chances = torch.softmax(torch.from_numpy(_said(model, TEXTS)), dim=1)[:, 0].tolist()
    assert [line["scores"]["fine"] for line in lines] == pytest.approx(chances, abs=1e-5)
