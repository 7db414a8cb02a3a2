"""List the mistakes: what is spoilt, and the words that the message must hold."""

from __future__ import annotations

import fcntl
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench import Bench, texts

Spoil = Callable[[Bench], list[str] | None]


@dataclass(frozen=True)
class Case:
    """Name one mistake.

    Args:
        name: what is wrong.
        spoil: makes the folder and returns the words after ``attar``; None where the machine cannot make the case.
        words: that the message must hold.
        stored: stages that may rightly be in the store: they were done before the mistake could show.
    """

    name: str
    spoil: Spoil
    words: tuple[str, ...]
    stored: tuple[str, ...] = ()


CASES: list[Case] = []


def case(name: str, *words: str, stored: tuple[str, ...] = ()) -> Callable[[Spoil], Spoil]:
    """Add a case whose inputs a function spoils."""

    def add(spoil: Spoil) -> Spoil:
        CASES.append(Case(name, spoil, words, stored))
        return spoil

    return add


def text_case(name: str, changes: dict[str, Any], *words: str) -> None:
    """Add a case of a text recipe with some keys changed."""
    CASES.append(Case(name, lambda at: at.text(changes), words))


def image_case(name: str, changes: dict[str, Any], *words: str) -> None:
    """Add a case of an image recipe with some keys changed."""
    CASES.append(Case(name, lambda at: at.digits(changes), words))


def table_case(name: str, table: str | bytes, *words: str, **changes: Any) -> None:
    """Add a case of a right text recipe with a wrong table."""
    CASES.append(Case(name, lambda at: at.text({k.replace("__", "."): v for k, v in changes.items()}, table), words))


def command_case(name: str, command: str, *words: str) -> None:
    """Add a case of a command line alone."""
    CASES.append(Case(name, lambda at: command.split(), words))


# Recipes whose keys or values are wrong
text_case("unknown key at the top", {"studnet": {"model": "x"}}, "studnet", "not a key here", "student")
text_case("unknown nested key", {"distill.learning_rat": 0.1}, "distill.learning_rat", "learning_rate")
text_case("missing key", {"data.source": None}, "data.source", "is required")
text_case("wrong type of a number", {"distill.epochs": "many"}, "distill.epochs", "must be a number", "'many'")
text_case("wrong type of a group", {"data": ["texts.csv"]}, "data", "must hold keys and values")
text_case("not a number (NaN)", {"distill.learning_rate": float("nan")}, "distill.learning_rate", "nan")
text_case("infinity", {"distill.clip": float("inf")}, "distill.clip", "finite")
text_case("negative seed", {"seed": -1}, "seed", "must be >= 0", "-1")
text_case("unknown choice", {"device": "gpu"}, "device", "'gpu'", "cuda")
text_case("name with a path in it", {"name": "../x"}, "name", "../x", "letters")
text_case("unknown task", {"task": "text-clasification"}, "task", "Did you mean 'text-classification'")
text_case("unknown objective", {"distill.objective": "foward_kl"}, "distill.objective", "Did you mean 'forward_kl'")
text_case("unknown compressor", {"compress": ["vocabulery"]}, "compress[0]", "Did you mean 'vocabulary'")
text_case(
    "temperature not above 0",
    {"distill.objective": [{"use": "forward_kl", "temperature": 0}]},
    "distill.objective[0].temperature",
    "must be > 0, got 0",
)
text_case(
    "all weights 0", {"distill.objective": [{"use": "forward_kl", "weight": 0}]}, "distill.objective", "weight > 0"
)
text_case("micro-batch over batch", {"distill.micro_batch_size": 99}, "distill", "micro_batch_size", "99")
image_case("dynamic_int8 on a CNN", {"compress": ["dynamic_int8"]}, "compress[0]", "dynamic_int8", "static_int8")
text_case("static_int8 on text", {"compress": ["static_int8"]}, "compress[0]", "static_int8", "dynamic_int8")
text_case("vocabulary after int8", {"compress": ["dynamic_int8", "vocabulary"]}, "compress[1]", "before")
text_case("a step twice", {"compress": ["vocabulary", "vocabulary"]}, "compress[1]", "stands twice")
text_case("teacher trained without gold", {"data.gold": ["test"]}, "teacher.train", "data.gold", "train")
text_case("a network of numbers for text", {"student": {"build": {"widths": [8]}}}, "student.build", "model")
text_case("timm for text", {"student": {"model": "timm:resnet18"}}, "student.model", "timm:resnet18", "text")
text_case("neither model nor build", {"student": {"layers": 2}}, "student", "model", "build")
text_case("layers out of range", {"student.layers": [0, 7]}, "student.layers", "2 layers", "7")
text_case("layers twice", {"student.layers": [0, 0]}, "student", "different numbers", "[0, 0]")
text_case("prompt for a trained teacher", {"prompt": {"teacher": {"input": "x"}}}, "prompt", "language model")
text_case("template without {text}", {"prompt": {"teacher": {"template": "x"}}}, "prompt.teacher", "{text}", "'x'")
text_case(
    "words for some labels alone",
    {
        "data.labels": ["good", "bad"],
        "teacher.train": None,
        "prompt": {"teacher": {"words": {"good": "good"}}},
    },
    "prompt.teacher.words",
    "bad",
)
image_case("data in the model's place", {"student": {"model": "sklearn:digits"}}, "student.model", "data")
image_case("unknown scikit-learn set", {"data.source": "sklearn:digit"}, "sklearn:digit", "Did you mean 'digits'")
text_case("a link as source", {"data.source": "https://example.org/a.csv"}, "data", "https://example.org", "Download")


@case("several mistakes, told at once", "4 mistakes", "seed", "distill.epochs", "studnt", "device")
def _(at: Bench) -> list[str]:
    return at.text({"seed": -1, "distill.epochs": 0, "studnt": 1, "device": "tpu"})


# Recipe files
@case("YAML syntax", "recipe.yaml", "line 3", "column 1")
def _(at: Bench) -> list[str]:
    at.write("recipe.yaml", "task: text-classification\ndata: {source: [\n")
    return ["check", "recipe.yaml"]


@case("a key twice in YAML", "recipe.yaml", "line 3", "'task' stands twice")
def _(at: Bench) -> list[str]:
    at.write("recipe.yaml", "task: text-classification\nseed: 1\ntask: image-classification\n")
    return ["check", "recipe.yaml"]


@case("YAML that is no mapping", "recipe.yaml", "keys and values", "list")
def _(at: Bench) -> list[str]:
    at.write("recipe.yaml", "- a\n- b\n")
    return ["run", "recipe.yaml"]


@case("an empty recipe", "recipe.yaml", "keys and values")
def _(at: Bench) -> list[str]:
    at.write("recipe.yaml", "")
    return ["run", "recipe.yaml"]


@case("YAML that makes Python objects", "recipe.yaml", "line 1", "python/object")
def _(at: Bench) -> list[str]:
    at.write("recipe.yaml", "task: !!python/object/apply:os.system ['touch harmed']\n")
    return ["run", "recipe.yaml"]


@case("YAML of aliases that grow without end", "recipe.yaml", "alias")
def _(at: Bench) -> list[str]:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    at.write("recipe.yaml", "\n".join(lines) + "\ntask: *a11\n")
    return ["check", "recipe.yaml"]


@case("a folder as recipe", "things", "is a folder")
def _(at: Bench) -> list[str]:
    at.write("things/a.txt", "x")
    return ["run", "things"]


@case("a binary file as recipe", "recipe.yaml", "UTF-8")
def _(at: Bench) -> list[str]:
    at.write("recipe.yaml", bytes(range(256)) * 4)
    return ["run", "recipe.yaml"]


@case("control characters in a recipe", "recipe.yaml", "not YAML")
def _(at: Bench) -> list[str]:
    at.write("recipe.yaml", b"task: \x00\x01text\n")
    return ["run", "recipe.yaml"]


@case("a recipe of 5 MB", "recipe.yaml", "at most", "data file")
def _(at: Bench) -> list[str]:
    at.write("recipe.yaml", "# x\n" * 1_250_000)
    return ["run", "recipe.yaml"]


command_case("a recipe that is not there", "run digit", "'digit'", "Did you mean 'digits'")


# Tables
@case("missing column", "texts.csv", "no column 'txt'", "Did you mean 'text'")
def _(at: Bench) -> list[str]:
    return at.text({"data.text": "txt"})


text_case("unknown label value", {"data.labels": ["good", "bda"]}, "'bda'", "Did you mean 'bad'")
text_case("labels that match nothing", {"data.labels": {"a": [1], "b": [2]}}, "labels", "'1'", "nowhere")
text_case("a value in two classes", {"data.labels": {"a": ["x"], "b": ["x"]}}, "data.labels", "'x' twice")
text_case("a split of no example", {"data.validation": 0.001}, "validation", "empty")
text_case("more examples than there are", {"data.train": 500}, "500", "Ask for fewer")
text_case("a file that is not there", {"data.source": "text.csv"}, "text.csv does not exist", "'texts.csv'")
text_case("another sha256", {"data.sha256": "0" * 64}, "texts.csv", "sha256", "0" * 64)
text_case("sha256 that is none", {"data.sha256": "abc"}, "sha256", "64 hex digits", "'abc'")
text_case("another format than it is", {"data.format": "parquet"}, "texts.csv", "Parquet")
table_case(
    "one class alone", "text,label\n" + "".join(f"text {i},good\n" for i in range(40)), "only 'good'", "2 classes"
)
table_case("all texts empty", "text,label\n" + " ,good\n ,bad\n" * 30, "no example", "empty 60")
table_case("an empty file", "", "texts.csv", "empty")
table_case("a header alone", "text,label\n", "texts.csv", "no rows")
table_case("a column twice", "text,text,label\n" + "a,b,good\n" * 20, "texts.csv", "2 columns named 'text'")
table_case("a ragged row", texts() + "one,two,three\n", "texts.csv, line 62", "3 values")
table_case("a quote without end", texts() + '"never closed,good\n', "texts.csv", "quote")
table_case("semicolons", texts().replace(",", ";"), "texts.csv", "semicolons")
table_case("binary garbage", bytes(range(256)) * 64, "texts.csv, line 1", "binary")
table_case("Latin-1", texts().encode() + "schön,good\n".encode("latin-1"), "texts.csv, line 62", "UTF-8", "iconv")
table_case("UTF-16", texts().encode("utf-16"), "texts.csv", "UTF-16", "iconv")
table_case("an Excel file", b"PK\x03\x04" + bytes(99), "texts.csv", "Excel")


@case("a line of 100 MB", "texts.csv, line 62", "longer than")
def _(at: Bench) -> list[str]:
    return at.text(table=texts().encode() + b"x" * 100_000_000 + b",good\n")


@case("a broken JSON line", "texts.jsonl, line 3", "not JSON")
def _(at: Bench) -> list[str]:
    row = '{"text": "fine", "label": "good"}\n'
    at.write("texts.jsonl", row * 2 + '{"text": "bro\n' + row)
    return at.text({"data.source": "texts.jsonl"})


@case("JSON lines that are lists", "texts.jsonl", "JSON")
def _(at: Bench) -> list[str]:
    at.write("texts.jsonl", '["fine", "good"]\n' * 9)
    return at.text({"data.source": "texts.jsonl"})


@case("a truncated Parquet file", "texts.parquet", "Parquet")
def _(at: Bench) -> list[str]:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [1, 2]}), at.folder / "texts.parquet")
    whole = (at.folder / "texts.parquet").read_bytes()
    at.write("texts.parquet", whole[: len(whole) // 2])
    return at.text({"data.source": "texts.parquet"})


@case("a folder in a table's place", "texts.csv", "folder")
def _(at: Bench) -> list[str]:
    words = at.text({"data.source": "tables/texts.csv"})
    at.write("tables/texts.csv/x", "x")
    return words


@case("a link that leads nowhere", "link.csv is a link to", "gone.csv, which does not exist")
def _(at: Bench) -> list[str]:
    words = at.text({"data.source": "link.csv"})
    (at.folder / "link.csv").symlink_to(at.folder / "gone.csv")
    return words


@case("a pipe in a table's place", "pipe.csv", "neither a file nor a folder")
def _(at: Bench) -> list[str]:
    import os

    words = at.text({"data.source": "pipe.csv"})
    os.mkfifo(at.folder / "pipe.csv")
    return words


# Images
def picture(side: int = 8, shade: int = 100) -> bytes:
    """Return a gray image as PNG."""
    from PIL import Image

    kept = io.BytesIO()
    Image.new("L", (side, side), shade).save(kept, "PNG")
    return kept.getvalue()


def _images(at: Bench, **spoilt: bytes) -> list[str]:
    for label in ("cat", "dog"):
        for number in range(12):
            at.write(f"images/{label}/{number}.png", picture(shade=10 * number + 5 + len(label) + (label == "dog")))
    for name, content in spoilt.items():
        at.write(f"images/cat/{name}.png", content)
    return at.digits({"data": {"source": "images", "validation": 4, "test": 4}})


@case("images of two sizes", "images/cat/big.png", "9x9", "image_size")
def _(at: Bench) -> list[str]:
    return _images(at, big=picture(9))


@case("a corrupt image", "images/cat/bad.png", "cannot be read as an image")
def _(at: Bench) -> list[str]:
    return _images(at, bad=picture()[:40])


@case("images without folders of classes", "loose", "folder for each class")
def _(at: Bench) -> list[str]:
    at.write("loose/1.png", picture())
    return at.digits({"data": {"source": "loose"}})


@case("one folder of images alone", "only 'cat'", "2 classes")
def _(at: Bench) -> list[str]:
    for number in range(9):
        at.write(f"one/cat/{number}.png", picture(shade=number))
    return at.digits({"data": {"source": "one"}})


# Model folders
def _student(at: Bench) -> list[str]:
    return at.text({"student": {"model": "model"}})


@case("a truncated safetensors file", "student.model", "model.safetensors", "promises")
def _(at: Bench) -> list[str]:
    path = at.model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return _student(at)


@case("a damaged safetensors header", "student.model", "model.safetensors", "header")
def _(at: Bench) -> list[str]:
    path = at.model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:8] + b"{{{{" + path.read_bytes()[12:])
    return _student(at)


@case("a safetensors header longer than the file", "student.model", "model.safetensors", "header")
def _(at: Bench) -> list[str]:
    (at.model() / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    return _student(at)


@case("weights that are a pickle", "student.model", "pytorch_model.bin", "is a pickle", "code")
def _(at: Bench) -> list[str]:
    folder = at.model()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return _student(at)


@case("a pickle called safetensors", "student.model", "model.safetensors is a pickle", "code")
def _(at: Bench) -> list[str]:
    import pickle

    (at.model() / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0] * 99}))
    return _student(at)


@case("no weights", "student.model", "no weights")
def _(at: Bench) -> list[str]:
    (at.model() / "model.safetensors").unlink()
    return _student(at)


@case("no config.json", "student.model", "no config.json")
def _(at: Bench) -> list[str]:
    (at.model() / "config.json").unlink()
    return _student(at)


@case("config.json that is no JSON", "student.model", "config.json", "JSON")
def _(at: Bench) -> list[str]:
    (at.model() / "config.json").write_text("{", encoding="utf-8")
    return _student(at)


@case("an unknown architecture", "bertt", stored=("data", "teacher", "record"))
def _(at: Bench) -> list[str]:
    path = at.model() / "config.json"
    path.write_text(path.read_text().replace('"bert"', '"bertt"').replace("BertModel", "BerttModel"), encoding="utf-8")
    return at.text({"teacher.model": "model"})


@case("no tokenizer", "teacher.model", "no tokenizer", "tokenizer.json")
def _(at: Bench) -> list[str]:
    for path in at.model().glob("tokenizer*"):
        path.unlink()
    return at.text({"teacher.model": "model"})


@case("tokenizer.json that is no JSON", "tokenizer", stored=("data",))
def _(at: Bench) -> list[str]:
    (at.model() / "tokenizer.json").write_text("{", encoding="utf-8")
    return at.text({"teacher.model": "model"})


@case("weights of another shape than config.json says", "model", stored=("data",))
def _(at: Bench) -> list[str]:
    path = at.model() / "config.json"
    path.write_text(path.read_text().replace('"hidden_size": 16', '"hidden_size": 24'), encoding="utf-8")
    return at.text({"teacher.model": "model"})


@case("a teacher that is no language model", "teacher.model", "language model", "BertModel", "teacher.train")
def _(at: Bench) -> list[str]:
    return at.text({"teacher.train": None})


@case("a shard that is missing", "student.model", "incomplete", "b.safetensors")
def _(at: Bench) -> list[str]:
    folder = at.model()
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    table = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table), encoding="utf-8")
    return _student(at)


@case("a shard outside the folder", "student.model", "../x.safetensors")
def _(at: Bench) -> list[str]:
    table = {"weight_map": {"x": "../x.safetensors"}}
    (at.model() / "model.safetensors.index.json").write_text(json.dumps(table), encoding="utf-8")
    return _student(at)


@case("a truncated GGUF file", "teacher.model", "model.gguf", "ends at byte 24")
def _(at: Bench) -> list[str]:
    at.write("model.gguf", b"GGUF" + struct.pack("<IQQ", 3, 5, 5))
    return at.text({"teacher": {"model": "model.gguf"}})


@case("a GGUF file of another kind", "teacher.model", "model.gguf", "does not begin with GGUF")
def _(at: Bench) -> list[str]:
    at.write("model.gguf", b"GGML" + bytes(100))
    return at.text({"teacher": {"model": "model.gguf"}})


text_case("a hub's model without a network", {"student": {"model": "owner/name"}}, "owner/name", "cache", "path")
text_case("a hub's name with a bad revision", {"student": {"model": "hf:owner/name@a b"}}, "student.model", "a b")
image_case("unknown timm model", {"student": {"model": "timm:resnet1888"}}, "student.model", "resnet1888")
image_case("unknown torchvision model", {"student": {"model": "torchvision:resnet_18"}}, "Did you mean 'resnet18'")


# Wheels
def _wheel(at: Bench, sha256: str | None, source: str = "pypi:some==1.0#some/texts.csv") -> list[str]:
    return at.text({"data.source": source, "data.sha256": sha256})


@case("a wheel without sha256", "pypi:some==1.0", "sha256 is required")
def _(at: Bench) -> list[str]:
    return _wheel(at, None)


@case("a package without a version", "pypi:some", "pin one version")
def _(at: Bench) -> list[str]:
    return _wheel(at, "0" * 64, "pypi:some#some/texts.csv")


@case("a path that leaves the wheel", "pypi:some==1.0", "without '..'")
def _(at: Bench) -> list[str]:
    return _wheel(at, "0" * 64, "pypi:some==1.0#../texts.csv")


@case("a wheel that no index has", "some==1.0", "pip cannot get")
def _(at: Bench) -> list[str]:
    at.environment |= {"PIP_NO_INDEX": "1"}
    return _wheel(at, "0" * 64)


@case("no such member in the wheel", "some/texts.csv", "not in the wheel", "Did you mean 'some/text.csv'")
def _(at: Bench) -> list[str]:
    return _wheel(at, at.wheel({"some/text.csv": b"x"}))


@case("a member that leads outside", "some/../../texts", "points outside")
def _(at: Bench) -> list[str]:
    sha256 = at.wheel({"some/cat/1.png": b"x", "some/../../texts.png": b"x"})
    return at.digits({"data": {"source": "pypi:some==1.0#some", "sha256": sha256}})


@case("a member with an absolute path", "/some/texts.csv", "not in the wheel")
def _(at: Bench) -> list[str]:
    return _wheel(at, at.wheel({"/some/texts.csv": texts().encode()}))


@case("a link in the wheel", "some/texts.csv", "is a link")
def _(at: Bench) -> list[str]:
    link = zipfile.ZipInfo("some/texts.csv")
    link.external_attr = 0o120777 << 16
    return _wheel(at, at.wheel({link: b"/etc/passwd"}))


@case("a zip bomb", "some/texts.csv", "zip bomb")
def _(at: Bench) -> list[str]:
    return _wheel(at, at.wheel({"some/texts.csv": bytes(100 << 20)}))


@case("a wheel that is no zip file", "some==1.0", "not a readable zip")
def _(at: Bench) -> list[str]:
    return _wheel(at, at.wheel({}, garbage=b"not a zip file"))


@case("a wheel that is cut off", "some==1.0", "not a readable zip")
def _(at: Bench) -> list[str]:
    sha256 = at.wheel({"some/texts.csv": texts().encode()})
    whole = (at.cache / "wheels" / f"{sha256}.whl").read_bytes()
    return _wheel(at, at.wheel({}, garbage=whole[: len(whole) // 2]))


# Disks and folders
def _full_cache(at: Bench, kibibytes: int) -> bool:
    place = at.small_disk(kibibytes)
    at.environment |= {"ATTAR_CACHE": str(place)}
    return place is not None


@case("no space for the data", "No space is left", "ATTAR_CACHE")
def _(at: Bench) -> list[str] | None:
    return at.digits() if _full_cache(at, 48) else None


@case("no space for the weights of training", "No space is left", stored=("data",))
def _(at: Bench) -> list[str] | None:
    wide = {"build": {"net": "mlp", "widths": [256, 256]}, "train": {"steps": 2}}
    return at.digits({"teacher": wide}) if _full_cache(at, 300) else None


@case("no space for a wheel's member", "No space is left")
def _(at: Bench) -> list[str] | None:
    if not _full_cache(at, 200):
        return None
    import random

    body = random.Random(0).randbytes(60_000).hex().encode()
    return _wheel(at, at.wheel({"some/texts.csv": body * 2}))


@case("no space for the run's folder", "No space is left", "disk/run")
def _(at: Bench) -> list[str] | None:
    place = at.small_disk(8)
    if place is None:
        return None
    (place / "filler").write_bytes(bytes(4096))
    return [*at.digits(), "--folder", "disk/run"]


@case("a file in the run folder's place", "taken", "folder")
def _(at: Bench) -> list[str]:
    at.write("taken", "x")
    return [*at.digits(), "--folder", "taken"]


@case("a file in the cache's place", "taken", "ATTAR_CACHE")
def _(at: Bench) -> list[str]:
    at.write("taken", "x")
    at.environment |= {"ATTAR_CACHE": str(at.folder / "taken")}
    return at.digits()


@case("a run that another process holds", "is in use by process")
def _(at: Bench) -> list[str]:
    path = at.write("runs/recipe/.lock", "1234")
    at.locks.append(path.open("r+"))
    fcntl.flock(at.locks[-1], fcntl.LOCK_EX)
    return at.digits()


@case("a stored result that was damaged", "data.bin", "is damaged", "run again", stored=("data",))
def _(at: Bench) -> list[str]:
    from attar.pipeline.graph import build
    from attar.pipeline.load import load_recipe
    from attar.store.artifacts import Store

    words = at.digits()
    key = build(*load_recipe(str(at.folder / "recipe.yaml")))["data"].key
    content = at.write("content/data.bin", "whole").parent
    (Store(at.cache).put("data", key, content, {}, {}).folder / "data.bin").write_text("spoilt", encoding="utf-8")
    return words


# Runs and bundles
command_case("an unknown run", "show nothing", "'nothing'", "attar run")
command_case("predict of an unknown run", "predict nothing x", "'nothing'")


@case("an unfinished run", "runs/half", "not finished")
def _(at: Bench) -> list[str]:
    at.run_folder("half")
    return ["show", "half"]


@case("a summary that is no JSON", "summary.json", "JSON")
def _(at: Bench) -> list[str]:
    (at.run_folder("bad", name="bad") / "summary.json").write_text('{"schema": 1, "mod', encoding="utf-8")
    return ["show", "bad"]


@case("a summary of another schema", "summary.json", "schema 1")
def _(at: Bench) -> list[str]:
    at.run_folder("new", schema=99)
    return ["show", "new"]


@case("a damaged summary in the list", "summary.json", "JSON")
def _(at: Bench) -> list[str]:
    (at.run_folder("bad", name="bad") / "summary.json").write_text("{", encoding="utf-8")
    return ["list"]


@case("runs of two tasks compared", "text-classification", "image-classification")
def _(at: Bench) -> list[str]:
    at.run_folder("one", name="one", task="text-classification")
    at.run_folder("two", name="two", task="image-classification")
    return ["compare", "one", "two"]


@case("a run without its bundle", "runs/one/bundle", "bundle.json")
def _(at: Bench) -> list[str]:
    at.run_folder("one", name="one")
    return ["predict", "one", "x.png"]


@case("a damaged file in a bundle", "bundle/model.onnx", "damaged")
def _(at: Bench) -> list[str]:
    path = at.bundle() / "model.onnx"
    path.write_bytes(path.read_bytes()[:-4])
    return ["predict", "bundle", "x.png"]


@case("a bundle's card that is no JSON", "bundle.json", "JSON")
def _(at: Bench) -> list[str]:
    (at.bundle() / "bundle.json").write_text("{", encoding="utf-8")
    return ["predict", "bundle", "x.png"]


@case("a bundle's card with parts missing", "bundle.json")
def _(at: Bench) -> list[str]:
    (at.bundle() / "bundle.json").write_text('{"schema": 1}', encoding="utf-8")
    return ["predict", "bundle", "x.png"]


@case("a bundle whose model is garbage", "model.onnx", "onnxruntime")
def _(at: Bench) -> list[str]:
    from attar.exporters.bundle import write_card

    folder = at.bundle()
    card = json.loads((folder / "bundle.json").read_text())
    (folder / "model.onnx").write_bytes(b"garbage" * 9)
    facts = {key: value for key, value in card.items() if key not in ("schema", "files")}
    write_card(folder, facts)
    return ["predict", "bundle", "x.png"]


@case("a bundle whose tokenizer is garbage", "tokenizer.json")
def _(at: Bench) -> list[str]:
    from attar.exporters.bundle import write_card

    folder = at.bundle()
    card = json.loads((folder / "bundle.json").read_text())
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    facts = {key: value for key, value in card.items() if key not in ("schema", "files")}
    write_card(folder, {**facts, "input": {"kind": "text", "max_length": 32}})
    return ["predict", "bundle", "x"]


@case("predict of no image", "x.png", "cannot be read as an image")
def _(at: Bench) -> list[str]:
    at.bundle()
    at.write("x.png", "no image")
    return ["predict", "bundle", "x.png"]


@case("predict of a file that is not there", "gone.txt", "cannot be read")
def _(at: Bench) -> list[str]:
    at.bundle()
    return ["predict", "bundle", "--file", "gone.txt"]


@case("predict of a file that is not UTF-8", "x.txt", "UTF-8")
def _(at: Bench) -> list[str]:
    at.bundle()
    at.write("x.txt", b"\xff\xfe\x00x\n")
    return ["predict", "bundle", "--file", "x.txt"]


@case("predict of inputs and a file", "--file", "not both")
def _(at: Bench) -> list[str]:
    at.bundle()
    return ["predict", "bundle", "x.png", "--file", "x.txt"]


# Command lines
command_case("--set without =", "run digits --set seed", "KEY=VALUE", "'seed'")
command_case("--set of no YAML", "run digits --set seed=[", "--set seed", "YAML")
command_case("--set of an unknown key", "check digits --set sed=1", "sed", "Did you mean 'seed'")
command_case("--set below a value", "check digits --set task.x=1", "task.x", "'task'")
command_case("--set with an empty part", "check digits --set distill..epochs=1", "distill..epochs")
command_case("unknown option", "check digits --jsn", "--jsn")
command_case("unknown verb", "chekc digits", "chekc")
command_case("no recipe", "run", "RECIPE")
command_case("an option's wrong type", "predict x --threads two", "--threads", "integer")
command_case("init of an unknown task", "init --task text-clasification", "Did you mean 'text-classification'")
command_case("copy of an unknown recipe", "copy reveiws", "Did you mean 'reviews'")


@case("copy over a file", "mine.yaml", "exists already")
def _(at: Bench) -> list[str]:
    at.write("mine.yaml", "mine")
    return ["copy", "digits", "mine.yaml"]


@case("init into a folder that is a file", "taken")
def _(at: Bench) -> list[str]:
    at.write("taken", "x")
    return ["init", "--task", "text-classification", "taken/recipe.yaml"]
