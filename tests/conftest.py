"""Hold tiny models, tokenizers and data for all tests; nothing here needs the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread costs more than it gives

CORPUS = [
    "a fine warm jacket that fits well and lasts",
    "the zip broke after one week, very bad quality",
    "I love this dress: great color, soft and light!",
    "too small, too thin; I sent it back the same day",
    "good shoes for the price, would buy them again",
    "terrible smell and the seams are already open",
    "beautiful fabric, perfect length, worth every cent",
    "not what the picture shows, cheap and scratchy",
]
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", action="store_true", default=False, help="also run on real models, data and processes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--real"):
        return
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(pytest.mark.skip(reason="needs --real"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the user's cache and runs."""
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTAR_RUNS", str(tmp_path / "runs"))


def train_tokenizer(kind: str, size: int = 220) -> Any:
    """Return a fast tokenizer of one kind, trained on the corpus in this process."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer: Any = trainers.WordPieceTrainer(vocab_size=size, special_tokens=specials)
        tokenizer.train_from_iterator(CORPUS, trainer)
        pair = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pair)
        tokenizer.decoder = decoders.WordPiece()
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=256 + size, special_tokens=["<eos>", "<bos>"], initial_alphabet=alphabet
        )
        tokenizer.train_from_iterator(CORPUS, trainer)
        names = {"pad_token": "<eos>", "eos_token": "<eos>", "bos_token": "<bos>"}
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        specials = ["<s>", "<pad>", "</s>", "<unk>"]
        trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=specials, unk_token="<unk>")
        tokenizer.train_from_iterator(CORPUS, trainer)
        ends = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
        names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


@pytest.fixture(scope="session")
def tokenizer() -> Callable[[str], Any]:
    """Return a maker of fresh tokenizers: ``wordpiece``, ``bpe`` or ``unigram``."""
    return train_tokenizer


def bert_config(vocabulary: int, **changes: Any) -> Any:
    from transformers import BertConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return BertConfig(vocab_size=vocabulary, max_position_embeddings=64, **{**sizes, **changes})


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny random BERT and its WordPiece tokenizer, as a hub would give it."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("bert")
    words = train_tokenizer("wordpiece")
    torch.manual_seed(0)
    BertModel(bert_config(len(words))).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny random Llama, a byte-level BPE tokenizer and a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    words = train_tokenizer("bpe")
    words.chat_template = CHAT
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = LlamaConfig(vocab_size=len(words), initializer_range=0.2, bos_token_id=1, eos_token_id=0, **sizes, **heads)
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture
def texts() -> Any:
    """Return eight labeled texts: fine (0) and bad (1) in turn."""
    from attar.core.examples import Examples
    from attar.seeds import content_key

    keys = np.array([content_key(text.encode()) for text in CORPUS])
    return Examples(keys, list(CORPUS), np.arange(len(CORPUS)) % 2)


@pytest.fixture
def text_student(bert_folder: Path) -> Any:
    """Return a tiny BERT classifier of two labels."""
    import torch

    from attar.students import folder
    from attar.students.settings import ModelSettings

    torch.manual_seed(1)
    model = folder.make(ModelSettings(model=str(bert_folder), max_length=32), bert_folder, ["fine", "bad"], ())
    model.module.eval()
    return model


PROMPT = {"template": "Review: {text}\nTitle:", "words": [], "chat": False, "demonstrations": [], "calibration": None}


@pytest.fixture
def pairs(texts: Any) -> Any:
    """Return eight texts, each with a target text of its first words."""
    return texts.without_labels().with_targets([" ".join(text.split()[:3]) for text in CORPUS])


@pytest.fixture
def writer(llama_folder: Path) -> Callable[..., Any]:
    """Return a maker of tiny language models that write titles of reviews."""
    import torch

    from attar.students import folder
    from attar.students.settings import ModelSettings

    def make(seed: int = 1, chat: bool = False, **settings: Any) -> Any:
        model = folder.make(ModelSettings(model=str(llama_folder), **settings), llama_folder, (), ())
        torch.manual_seed(seed)
        for parameter in model.module.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.module.eval()
        model.facts |= {"prompt": {**PROMPT, "name": "titles", "chat": chat}, "max_new_tokens": 12}
        return model

    return make


@pytest.fixture
def label_reader(llama_folder: Path) -> Callable[..., Any]:
    """Return a maker of tiny language models that answer ``fine`` or ``bad`` by the label words of a prompt."""
    from attar.core.prompt import TextPrompt
    from attar.students import folder
    from attar.students.settings import ModelSettings

    plain = TextPrompt("Review: {text}\nSentiment:", ("good", "bad"))

    def make(prompt: TextPrompt = plain, weights: Path = llama_folder, **settings: Any) -> Any:
        wanted = ModelSettings(model=str(weights), answers_by="label_words", **{"max_length": 24, **settings})
        model = folder.make(wanted, weights, ["fine", "bad"], (), {"prompt": prompt.to_json()})
        model.module.eval()
        return model

    return make


def make_images(count: int, seed: int = 0) -> Any:
    """Return labeled images of 8 x 8 pixels: bright above (0) or bright below (1), with noise."""
    from attar.core.examples import Examples

    random = np.random.Generator(np.random.PCG64(seed))
    labels = np.arange(count) % 2
    pixels = random.integers(0, 120, (count, 1, 8, 8))
    for place, label in enumerate(labels):
        pixels[place, :, 4 * label : 4 * label + 4] += 100
    return Examples(random.permutation(10 * count)[:count].astype(np.int64), pixels.astype(np.uint8), labels)


@pytest.fixture
def images() -> Callable[..., Any]:
    """Return the maker of labeled images."""
    return make_images


@pytest.fixture
def net() -> Callable[..., Any]:
    """Return a maker of tiny networks for the images."""
    import torch

    from attar.students import folder
    from attar.students.settings import Build, ModelSettings

    def make(seed: int = 0, **build: Any) -> Any:
        torch.manual_seed(seed)
        settings = ModelSettings(build=Build(**{"net": "mlp", "widths": (8,), **build}))
        return folder.make(settings, None, ["above", "below"], (1, 8, 8))

    return make


@pytest.fixture(scope="session")
def text_graph(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return a tiny BERT classifier and its ONNX graph."""
    import torch

    from attar.exporters.onnx import OnnxExporter
    from attar.students import folder
    from attar.students.settings import ModelSettings

    torch.manual_seed(1)
    model = folder.make(ModelSettings(model=str(bert_folder), max_length=32), bert_folder, ["fine", "bad"], ())
    path = tmp_path_factory.mktemp("graph") / "text.onnx"
    OnnxExporter().export(model, path)
    return model, path


@pytest.fixture(scope="session")
def image_graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return a tiny CNN, trained for a moment so that its answers are sure, and its ONNX graph."""
    import torch

    from attar.exporters.onnx import OnnxExporter
    from attar.students import folder
    from attar.students.settings import Build, ModelSettings
    from attar.tasks.image_classification import ImageClassification

    torch.manual_seed(0)
    settings = ModelSettings(build=Build(net="cnn", widths=(6, 8)))
    model = folder.make(settings, None, ["above", "below"], (1, 8, 8))
    optimizer = torch.optim.Adam(model.module.parameters(), lr=0.02)
    batch = ImageClassification().collate(model, make_images(64))
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model.module(batch.inputs["pixel_values"]), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("graph") / "image.onnx"
    OnnxExporter().export(model, path)
    return model, path


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for graphs that tests share."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def kept_graphs(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export a network to ONNX once, whichever text stands around its inputs: that is no part of the graph."""
    import hashlib
    import shutil

    from attar.exporters.onnx import OnnxExporter

    own = OnnxExporter.export

    def export(self: Any, model: Any, path: Path) -> None:
        digest = hashlib.sha256(repr(model.module).encode())
        for tensor in (*model.module.parameters(), *model.module.buffers()):
            digest.update(tensor.detach().numpy().tobytes())
        kept = graphs / f"{digest.hexdigest()}.onnx"
        if not kept.exists():
            own(self, model, kept)
        shutil.copyfile(kept, path)

    monkeypatch.setattr(OnnxExporter, "export", export)


TINY_RUN = {
    "task": "image-classification",
    "data": {"source": "sklearn:digits", "train": 400, "validation": 60, "test": 60},
    "teacher": {"build": {"widths": [8]}, "train": {"steps": 30, "learning_rate": 0.01, "checkpoint_seconds": 0}},
    "student": {"build": {"widths": [4]}},
    "distill": {"steps": 30, "learning_rate": 0.01, "checkpoint_seconds": 0, "precision": "float32"},
    "measure": {"texts": 5, "warmup": 0, "resamples": 100, "agreement": 0},
}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe of a few steps, its finished run in ``runs/tiny`` and the store in ``cache``."""
    import yaml

    from attar import api

    home = tmp_path_factory.mktemp("tiny")
    (home / "tiny.yaml").write_text(yaml.safe_dump(TINY_RUN), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(home / "cache"))
        api.run(home / "tiny.yaml", home / "runs" / "tiny")
    return home
