"""What is exported is read back and compared; what does not agree, or is not whole, is not kept."""

from __future__ import annotations

import errno
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import DataSet
from attar.errors import AttarError
from attar.exporters.gguf import GgufExporter
from attar.exporters.graphs import OnnxFormat
from attar.stages import formats
from attar.stages.formats import REPORT, Wanted, export_format
from attar.stages.hf import HfFormat, TorchWriter
from attar.students import folder as students

LLAMA = importlib.util.find_spec("llama_cpp") is not None
GOLD = frozenset({"train", "validation", "test"})


@pytest.fixture
def pictures(net: Callable[..., Any], images: Callable[..., Any], tmp_path: Path) -> tuple[Path, DataSet]:
    """Return the folder of an image classifier, and data for it."""
    students.save(net(net="cnn", widths=(4,)), tmp_path / "student")
    parts = [images(20, seed) for seed in range(3)]
    return tmp_path / "student", DataSet(("above", "below"), *parts, gold=GOLD)


@pytest.fixture
def titles(writer: Callable[..., Any], pairs: Any, tmp_path: Path) -> tuple[Path, DataSet]:
    """Return the folder of a model that writes, and data for it."""
    students.save(writer(), tmp_path / "student")
    return tmp_path / "student", DataSet((), pairs, pairs.take(np.arange(4)), pairs.take(np.arange(4, 8)), gold=GOLD)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_hf_of_a_model_that_writes(titles: tuple[Path, DataSet], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    found = export_format(titles[0], "text-generation", titles[1], Wanted("hf"), tmp_path / "out" / "hf")
    assert json.loads((tmp_path / "out" / "hf" / REPORT).read_text("utf-8")) == found
    assert (found["metric"], found["files"], found["logits"], found["n"]) == ("perplexity", found["model"], 0.0, 4)
    assert (found["written_alike"], found["whole_test"], found["difference"]) == (1.0, True, 0.0)
    assert names(tmp_path / "out") == ["hf"]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "hf")
    own = students.load(titles[0]).module.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in plain.state_dict().items())


def test_hf_in_bfloat16_is_half_as_large_and_near(titles: tuple[Path, DataSet], tmp_path: Path) -> None:
    found = {
        precision: export_format(titles[0], "text-generation", titles[1], Wanted("hf", precision), tmp_path / precision)
        for precision in ("f32", "bf16")
    }
    sizes = [(tmp_path / precision / "model.safetensors").stat().st_size for precision in found]
    assert sizes[1] < 0.6 * sizes[0]
    assert found["bf16"]["precision"] == "bfloat16"
    assert 0 < found["bf16"]["logits"] < 0.1
    assert 0 < found["bf16"]["difference"] < 0.02


@pytest.mark.usefixtures("kept_graphs")
def test_onnx_of_pictures_is_a_bundle(pictures: tuple[Path, DataSet], tmp_path: Path) -> None:
    from attar.exporters.bundle import Bundle

    found = export_format(pictures[0], "image-classification", pictures[1], Wanted("onnx"), tmp_path / "onnx")
    assert (found["metric"], found["files"], found["n"]) == ("accuracy", found["model"], 20)
    assert found["logits"] < 1e-4
    right = Bundle(tmp_path / "onnx").scores(pictures[1].test.inputs).argmax(axis=1) == pictures[1].test.labels
    assert right.mean() == found["files"]


def test_a_format_is_for_its_tasks(pictures: tuple[Path, DataSet], tmp_path: Path) -> None:
    for wanted, why in (
        (
            Wanted("gguf"),
            "gguf is for text-generation; this run is of image-classification. Formats for it: executorch, onnx",
        ),
        (Wanted("onnx", "q4_0"), "precision of onnx must be one of float32, got 'q4_0'"),
        (Wanted("guff"), "There is no exporter 'guff'. Did you mean 'gguf'?"),
    ):
        with pytest.raises(AttarError) as refused:
            export_format(pictures[0], "image-classification", pictures[1], wanted, tmp_path / "out")
        assert why in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("kept_graphs")
def test_files_that_answer_otherwise_are_not_kept(
    pictures: tuple[Path, DataSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    export_format(pictures[0], "image-classification", pictures[1], Wanted("onnx"), target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    own = OnnxFormat.export

    def worse(self: Any, model: Any, folder: Path, precision: str) -> str:
        changed = students.load(pictures[0])
        for parameter in changed.module.parameters():
            parameter.data += 0.1
        return own(self, changed, folder, precision)

    monkeypatch.setattr(OnnxFormat, "export", worse)
    with pytest.raises(AttarError, match=r"do not answer as the model does.*Nothing was kept") as refused:
        export_format(pictures[0], "image-classification", pictures[1], Wanted("onnx"), target)
    assert refused.value.exit_status == 2
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert names(tmp_path) == sorted(["out", "student"])


@pytest.mark.usefixtures("kept_graphs")
def test_another_figure_than_the_runs_is_refused(pictures: tuple[Path, DataSet], tmp_path: Path) -> None:
    task, target = "image-classification", tmp_path / "out"
    measured = export_format(pictures[0], task, pictures[1], Wanted("onnx"), target)["model"]
    assert export_format(pictures[0], task, pictures[1], Wanted("onnx"), target, measured)["difference"] == 0
    with pytest.raises(AttarError, match=r"\(measured\)"):
        export_format(pictures[0], task, pictures[1], Wanted("onnx"), target, measured - 0.1)
    # of a part of the test split the run's figure says nothing
    export_format(pictures[0], task, pictures[1], Wanted("onnx", examples=10), target, measured - 0.1)
    loose = Wanted("onnx", tolerance=0.2)
    assert export_format(pictures[0], task, pictures[1], loose, target, measured - 0.1)["tolerance"]["metric"] == 0.2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_that_looks_whole(
    number: int, titles: tuple[Path, DataSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, model: Any, folder: Path, precision: str) -> str:
        (folder / "model.gguf").write_bytes(b"GGUF")
        raise OSError(number, "No space left on device", str(folder / "model.gguf"))

    export_format(titles[0], "text-generation", titles[1], Wanted("hf"), tmp_path / "out")
    before = names(tmp_path / "out")
    monkeypatch.setattr(GgufExporter, "export", full)
    monkeypatch.setattr(HfFormat, "export", full)
    for target, to in ((tmp_path / "new", "gguf"), (tmp_path / "out", "hf")):
        with pytest.raises(AttarError, match="No space is left on the disk of"):
            export_format(titles[0], "text-generation", titles[1], Wanted(to), target)
    assert names(tmp_path) == sorted(["out", "student"])
    assert names(tmp_path / "out") == before


def test_a_disk_that_fills_inside_the_writer(
    titles: tuple[Path, DataSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    def full(self: Any, **other: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(AttarError, match="No space is left on the disk of"):
        export_format(titles[0], "text-generation", titles[1], Wanted("gguf"), tmp_path / "out")
    assert names(tmp_path) == ["student"]


def test_a_folder_that_is_no_export_is_left_alone(pictures: tuple[Path, DataSet], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    with pytest.raises(AttarError, match="is no export of attar"):
        export_format(pictures[0], "image-classification", pictures[1], Wanted("onnx"), tmp_path / "out")
    assert names(tmp_path / "out") == ["thesis.txt"]


@pytest.mark.usefixtures("kept_graphs")
def test_without_a_gold_label_nothing_is_compared(pictures: tuple[Path, DataSet], tmp_path: Path) -> None:
    data = DataSet(
        ("above", "below"), pictures[1].train, pictures[1].validation, pictures[1].test.without_labels(), gold=GOLD
    )
    with pytest.raises(AttarError, match="No test example has a gold label"):
        export_format(pictures[0], "image-classification", data, Wanted("onnx"), tmp_path / "out")
    assert names(tmp_path) == ["student"]


def test_losses_are_those_of_the_targets(titles: tuple[Path, DataSet]) -> None:
    from attar.teachers.language_model import LanguageModelTeacher

    model, test = students.load(titles[0]), titles[1].test
    summed, tokens = LanguageModelTeacher(model, formats.answering(model)._task, "").likelihood(test)  # type: ignore[union-attr]
    assert formats._loss(TorchWriter(model), formats._pairs(test)) == pytest.approx(
        summed.sum() / tokens.sum(), rel=1e-5
    )


def test_logits_that_are_no_numbers_or_of_another_shape_are_far() -> None:
    one = np.ones((2, 3), np.float32)
    assert formats._far(one, one) == 0
    assert formats._far(one, np.full((2, 3), np.nan)) == float("inf")
    assert formats._far(one, np.ones((2, 2))) == float("inf")


@pytest.mark.real
@pytest.mark.skipif(not LLAMA, reason="needs llama-cpp-python")
@pytest.mark.parametrize("precision", ["float32", "q8_0"])
def test_llama_cpp_answers_as_the_model_does(precision: str, titles: tuple[Path, DataSet], tmp_path: Path) -> None:
    from attar.exporters.gguf_runtime import GgufBundle

    found = export_format(titles[0], "text-generation", titles[1], Wanted("gguf", precision), tmp_path / "out")
    assert found["metric"] == "perplexity"
    if precision == "float32":
        assert found["logits"] < 1e-4
        assert found["written_alike"] == 1.0
    bundle = GgufBundle(tmp_path / "out", 1)
    texts = [*map(str, titles[1].train.inputs), "größer 12 34 😀", "  spaces  "]
    assert [bundle.own_tokens(text) for text in texts] == [bundle.tokens(text) for text in texts]


@pytest.mark.real
@pytest.mark.parametrize(
    ("to", "precision"), [("openvino", "float32"), ("openvino", "float16"), ("executorch", "float32")]
)
def test_what_runs_elsewhere_answers_as_the_model_does(
    to: str, precision: str, pictures: tuple[Path, DataSet], text_student: Any, texts: Any, tmp_path: Path
) -> None:
    pytest.importorskip(to)
    wanted = Wanted(to, precision)
    found = export_format(pictures[0], "image-classification", pictures[1], wanted, tmp_path / "pictures")
    assert found["files"] == found["model"]
    students.save(text_student, tmp_path / "reader")
    data = DataSet(("fine", "bad"), texts, texts, texts, gold=GOLD)
    found = export_format(tmp_path / "reader", "text-classification", data, wanted, tmp_path / "texts")
    assert found["logits"] < (1e-4 if precision == "float32" else 0.02)
