"""Run every kind of student through what a student promises: make, save, load; it loads in its field's library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attar import catalog
from attar.core.examples import Examples
from attar.core.prompt import TextPrompt
from attar.students import folder
from attar.students.settings import Build, ModelSettings
from attar.students.settings import ModelSettings as Settings

LABELS = ["fine", "bad", "so so"]
CASES: dict[str, dict[str, Any]] = {
    "transformers": {"shape": ()},
    "label_words": {"shape": ()},
    "net": {"settings": Settings(build=Build(net="cnn", widths=(4, 6), hidden=5, dropout=0.1)), "shape": (1, 8, 8)},
    "timm": {"settings": Settings(model="timm:test_resnet", pretrained=False), "shape": (1, 32, 32)},
    "torchvision": {"settings": Settings(model="torchvision:squeezenet1_1", pretrained=False), "shape": (3, 32, 32)},
}


TEXTS = {"transformers", "label_words"}


def _make(name: str, bert_folder: Path, llama_folder: Path) -> Any:
    torch.manual_seed(0)
    case = CASES[name]
    weights = {"transformers": bert_folder, "label_words": llama_folder}.get(name)
    kind: dict[str, Any] = {"answers_by": "label_words"} if name == "label_words" else {}
    settings = case.get("settings") or ModelSettings(model=str(weights), max_length=16, **kind)
    facts = {"prompt": TextPrompt("{text}\nMood:", ("fine", "bad", "so")).to_json()} if kind else {}
    model = folder.make(settings, weights, LABELS, case["shape"], facts)
    model.module.eval()
    return model


def _say(name: str, module: Any, model: Any, texts: Examples) -> torch.Tensor:
    task = catalog.entry("task", "text-classification" if name in TEXTS else "image-classification")()
    if name not in TEXTS:
        torch.manual_seed(1)
        pixels = torch.randint(0, 256, (2, *model.facts["shape"]), dtype=torch.uint8).numpy()
        texts = Examples(texts.keys[:2], pixels, texts.labels[:2])
    with torch.no_grad():
        batch = task.collate(model, texts)
        said = module(**batch.inputs) if name in TEXTS else module(batch.inputs["pixel_values"])
    return said if isinstance(said, torch.Tensor) else said.logits


def test_every_kind_has_a_case() -> None:
    # causal chooses no label: tests/students/test_causal.py; the other two are made of others: tests/prompts/kinds,
    # tests/compressors/test_low_rank.py
    assert set(CASES) == set(catalog.TABLES["student"]) - {"causal", "prompted", "factored"}


@pytest.mark.parametrize("name", sorted(CASES))
def test_save_and_load_give_identical_outputs(
    name: str, bert_folder: Path, llama_folder: Path, tmp_path: Path, texts: Examples
) -> None:
    model = _make(name, bert_folder, llama_folder)
    assert model.kind == name
    before = _say(name, model.module, model, texts)
    folder.save(model, tmp_path / "deep" / "model")
    loaded = folder.load(tmp_path / "deep" / "model")
    assert not loaded.module.training
    assert loaded.facts == model.facts
    assert before.shape[-1] == len(LABELS)
    assert torch.equal(before, _say(name, loaded.module, loaded, texts))
    assert not list((tmp_path / "deep").rglob("*.bin"))


def _plain(name: str, path: Path, model: Any) -> Any:
    from safetensors.torch import load_file

    if name == "transformers":
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(path)
    if name == "timm":
        import timm

        module = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    else:
        import torchvision

        module = torchvision.models.get_model("squeezenet1_1", num_classes=3)
    module.load_state_dict(load_file(path / "model.safetensors"))
    return module.eval()


@pytest.mark.parametrize("name", ["transformers", "timm", "torchvision"])
def test_it_loads_in_the_library_of_its_field(
    name: str, bert_folder: Path, llama_folder: Path, tmp_path: Path, texts: Examples
) -> None:
    model = _make(name, bert_folder, llama_folder)
    folder.save(model, tmp_path)
    assert torch.equal(_say(name, model.module, model, texts), _say(name, _plain(name, tmp_path, model), model, texts))


def test_the_tokenizer_comes_along(bert_folder: Path, llama_folder: Path, tmp_path: Path, texts: Examples) -> None:
    from transformers import AutoTokenizer

    model = _make("transformers", bert_folder, llama_folder)
    folder.save(model, tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain(list(texts.inputs)).input_ids == model.processor(list(texts.inputs)).input_ids
