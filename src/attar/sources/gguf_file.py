"""Read the header of a GGUF file, and convert such a file to a plain Hugging Face folder."""

from __future__ import annotations

import io
import math
import mmap
import os
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.errors import AttarError
from attar.log import say
from attar.optional import lazy
from attar.store.files import disk_errors, remove

gguf: Any = lazy("gguf")
transformers: Any = lazy("transformers")
torch: Any = lazy("torch")

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MANY = 1 << 20  # keys or tensors; no model has as many, a damaged count does


@dataclass(frozen=True)
class Header:
    """Hold what a GGUF file says of itself.

    Args:
        fields: key -> scalar or text; for an array its length alone.
        parameters: number of weights.
    """

    fields: Mapping[str, Any]
    parameters: int


class _Reader:
    """Read little-endian values one after another, never past the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.place = 0

    def skip(self, count: int) -> None:
        """Go on by ``count`` bytes, or raise ValueError if the file has not as many."""
        if count < 0 or self.place + count > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)}, inside its header")
        self.place += count

    def number(self, code: str) -> Any:
        """Return the next scalar; ``code`` is its `struct` format."""
        begin = self.place
        self.skip(struct.calcsize(code))
        return struct.unpack_from(f"<{code}", self.data, begin)[0]

    def text(self) -> str:
        """Return the next text."""
        length = self.number("Q")
        begin = self.place
        self.skip(length)
        return self.data[begin : self.place].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """Return the next value of GGUF's type ``kind``; of an array its length alone."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise ValueError(f"its header holds a value of the unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            self.skip(count * struct.calcsize(SCALARS[inner]))
        elif inner == STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise ValueError(f"its header holds an array of the unknown type {inner}")
        return count


def read_header(path: Path) -> Header:
    """Return the fields and the number of parameters of a GGUF file, without reading its weights.

    Args:
        path: the file.

    Raises:
        AttarError: the file is no GGUF file of version 2 or 3, truncated or damaged.
    """
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(_Reader(data))
    except ValueError as error:
        raise AttarError(f"{path} is no whole GGUF file: {error}. Download or copy it again.") from error


def _header(reader: _Reader) -> Header:
    if reader.data[:4] != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    reader.skip(4)
    release = reader.number("I")
    if release not in (2, 3):
        raise ValueError(f"its version is {release}, and 2 and 3 are known")
    count, keys = reader.number("Q"), reader.number("Q")
    if max(count, keys) > MANY:
        raise ValueError(f"its header promises {count} tensors and {keys} keys")
    fields = {}
    for _ in range(keys):
        name = reader.text()
        fields[name] = reader.value(reader.number("I"))
    sizes = [_tensor(reader) for _ in range(count)]
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"its alignment is {alignment}")
    begin = -(-reader.place // alignment) * alignment
    end = max((begin + offset + length for _, offset, length in sizes), default=begin)
    if end > len(reader.data):
        raise ValueError(f"its tensors end at byte {end}, it has {len(reader.data)}")
    return Header(fields, sum(elements for elements, _, _ in sizes))


def _tensor(reader: _Reader) -> tuple[int, int, int]:
    """Return elements, offset and bytes of the next tensor."""
    name, dimensions = reader.text(), reader.number("I")
    if dimensions > 8:
        raise ValueError(f"its tensor '{name[:40]}' has {dimensions} dimensions")
    elements = math.prod(reader.number("Q") for _ in range(dimensions))
    block, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(reader.number("I"))]
    return elements, reader.number("Q"), elements // block * width


def config(path: Path) -> dict[str, Any]:
    """Return the shape of the model in a GGUF file under the names of a Hugging Face ``config.json``.

    Args:
        path: the file.

    Returns:
        ``model_type``, ``hidden_size``, ``num_hidden_layers`` and ``vocab_size``, as far as the file says.

    Raises:
        AttarError: the file is no whole GGUF file.
    """
    fields = read_header(path).fields
    family = fields.get("general.architecture", "")
    found = {
        "model_type": family,
        "hidden_size": fields.get(f"{family}.embedding_length"),
        "num_hidden_layers": fields.get(f"{family}.block_count"),
        "vocab_size": fields.get(f"{family}.vocab_size", fields.get("tokenizer.ggml.tokens")),
    }
    return {name: value for name, value in found.items() if value is not None}


def as_folder(source: Path, target: Path, precision: str = "bfloat16") -> None:
    """Convert a GGUF file once to a plain Hugging Face folder: safetensors, tokenizer, chat template.

    Args:
        source: the file; its weights are dequantized.
        target: the folder to make, missing or empty; it appears when it is whole. One process at a time may make it.
        precision: of the weights in the folder.

    Raises:
        AttarError: the file is damaged, or of a family that transformers cannot read from GGUF.
    """
    count = read_header(source).parameters
    say(f"converting {source.name} to safetensors, once ({count / 1e6:.0f} million parameters)")
    beside = target.with_name(f".{target.name}.tmp")
    try:
        with disk_errors(target), _quiet():
            remove(beside)
            target.parent.mkdir(parents=True, exist_ok=True)
            _convert(source, beside, precision)
            os.replace(beside, target)
    except (AttarError, MemoryError):
        raise
    except Exception as error:  # a strange file fails anywhere in transformers, with any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise AttarError(
            f"{source} cannot be converted: transformers says {reason!r}. Choose another file of the model, best one "
            "with safetensors."
        ) from error
    finally:
        remove(beside)


def _convert(source: Path, folder: Path, precision: str) -> None:
    where, name = str(source.parent), source.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(where, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        where,
        gguf_file=name,
        dtype=getattr(torch, precision),
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' bars and warnings while a block runs; one of its bars heeds no switch, only stderr."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
