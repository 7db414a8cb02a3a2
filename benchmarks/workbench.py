"""Give every mistake a fresh folder with small, right inputs to spoil: texts, a tiny model, a bundle, wheels."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

GOOD = ("a fine warm jacket", "I love this dress", "good shoes for the price", "beautiful fabric, perfect length")
BAD = ("the zip broke after a week", "too small, too thin", "terrible smell, open seams", "cheap and scratchy")
DIGITS = {
    "task": "image-classification",
    "data": {"source": "sklearn:digits", "validation": 100, "test": 200},
    "teacher": {"build": {"widths": [4]}, "train": {"steps": 2}},
    "student": {"build": {"widths": [4]}},
    "distill": {"steps": 2},
}


def texts(count: int = 60) -> str:
    """Return a table of texts as CSV: columns text and label, good and bad in turn."""
    rows = [f"{(GOOD, BAD)[i % 2][i // 2 % 4]} number {i},{('good', 'bad')[i % 2]}" for i in range(count)]
    return "\n".join(["text,label", *(row if row.count(",") == 1 else _quoted(row) for row in rows)]) + "\n"


def _quoted(row: str) -> str:
    head, _, label = row.rpartition(",")
    return f'"{head}",{label}'


def make_model(folder: Path) -> None:
    """Write a tiny random BERT with its tokenizer, as `save_pretrained` does."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from attar.students.transformers import quiet_transformers

    quiet_transformers()
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator([*GOOD, *BAD], trainers.WordPieceTrainer(vocab_size=120, special_tokens=specials))
    pair = [(name, words.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pair)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words.get_vocab()), max_position_embeddings=64, **sizes)).save_pretrained(
        folder
    )


def make_bundle(folder: Path) -> None:
    """Write a bundle for 8 x 8 images with one matrix in it."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from attar.exporters.bundle import write_card

    weight = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    given = {"kind": "image", "shape": [1, 8, 8], "mean": 0.5, "std": 0.5}
    facts = {"task": "image-classification", "labels": ["a", "b"], "model": "model.onnx", "precision": "float32"}
    write_card(folder, {**facts, "input": given})


@dataclass
class Bench:
    """Hold one case's folder.

    Args:
        folder: fresh; the working folder of the command.
        stock: folder with the tiny model and the bundle, made once.
        environment: further variables of the command.
        mounts: file systems to unmount afterwards.
        locks: open files whose locks the command meets.
    """

    folder: Path
    stock: Path
    environment: dict[str, str] = field(default_factory=dict)
    mounts: list[Path] = field(default_factory=list)
    locks: list[Any] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        """Return attar's cache of this case."""
        return Path(self.environment.get("ATTAR_CACHE", str(self.folder / "cache")))

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    def model(self, name: str = "model") -> Path:
        """Return a copy of the tiny model, to be spoilt."""
        return Path(shutil.copytree(self.stock / "model", self.folder / name))

    def bundle(self, name: str = "bundle") -> Path:
        """Return a copy of the bundle, to be spoilt."""
        return Path(shutil.copytree(self.stock / "bundle", self.folder / name))

    def run_folder(self, name: str, /, **summary: Any) -> Path:
        """Write a finished run's folder; without facts, an unfinished one's."""
        folder = self.folder / "runs" / name
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").write_text('{"event": "run"}\n', encoding="utf-8")
        if summary:
            (folder / "summary.json").write_text(json.dumps({"schema": 1, "models": [], **summary}), encoding="utf-8")
        return folder

    def recipe(self, base: Mapping[str, Any], changes: Mapping[str, Any], verb: str = "run") -> list[str]:
        """Write a recipe with dotted keys changed (None removes one) and return the command that runs it."""
        body = json.loads(json.dumps(base))
        for path, value in changes.items():
            *parents, last = path.split(".")
            place = body
            for parent in parents:
                place = place.setdefault(parent, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        self.write("recipe.yaml", yaml.safe_dump(body, sort_keys=False))
        return [verb, "recipe.yaml"]

    def text(self, changes: Mapping[str, Any] | None = None, table: str | bytes | None = None) -> list[str]:
        """Write a text recipe with its table and return the command that runs it."""
        self.write("texts.csv", texts() if table is None else table)
        model = {"model": str(self.stock / "model")}
        base = {
            "task": "text-classification",
            "data": {"source": "texts.csv", "text": "text", "label": "label", "validation": 10, "test": 20},
            "teacher": {**model, "train": {"steps": 2}},
            "student": model,
            "distill": {"steps": 2},
        }
        return self.recipe(base, changes or {})

    def digits(self, changes: Mapping[str, Any] | None = None) -> list[str]:
        """Write an image recipe and return the command that runs it."""
        return self.recipe(DIGITS, changes or {})

    def wheel(self, members: Mapping[str | zipfile.ZipInfo, bytes], garbage: bytes = b"") -> str:
        """Put a wheel where machines without a network put theirs; return its sha256."""
        folder = self.cache / "wheels"
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / "draft"
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        if garbage:
            draft.write_bytes(garbage)
        sha256 = hashlib.sha256(draft.read_bytes()).hexdigest()
        draft.rename(folder / f"{sha256}.whl")
        return sha256

    def small_disk(self, kibibytes: int) -> Path | None:
        """Mount a file system of so many KiB and return its folder, or None where that is not allowed."""
        place = self.folder / "disk"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "none", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError:
            return None
        if done.returncode:
            return None
        self.mounts.append(place)
        return place

    def attar(self, words: Sequence[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a real attar process in the folder."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("ATTAR_", "HF_", "PIP_"))}
        own = {
            "ATTAR_CACHE": str(self.cache),
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
        }
        own |= {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "attar", *words],
            cwd=self.folder,
            env={**clean, **own, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def close(self) -> None:
        """Let go of mounts and locks, and remove the folder."""
        for handle in self.locks:
            handle.close()
        for place in self.mounts:
            subprocess.run(["umount", str(place)], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
