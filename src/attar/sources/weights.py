"""Check model weights before anything loads them; only safetensors and GGUF are read, never a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.errors import AttarError
from attar.sources import gguf_file, headers
from attar.sources.gguf_file import as_folder
from attar.sources.near import near
from attar.store.files import read_json

__all__ = ["as_folder", "check_tokenizer", "check_weights", "model_config", "parameter_count"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZERS = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("spm.model", "bpe.codes", "tekken.json", "tiktoken.model", "vocab.bpe"),
)


def check_weights(source: Path) -> None:
    """Check that a model's files are whole and safe to read; weights are not loaded.

    Args:
        source: a Hugging Face folder, or a .gguf file.

    Raises:
        AttarError: ``config.json`` is missing or no JSON, the only weights are pickles, or weights are missing,
            truncated or damaged.
    """
    if _is_gguf(source):
        gguf_file.read_header(source)
        return
    model_config(source)
    for path in _shards(source):
        headers.tensors(path)


def check_tokenizer(source: Path) -> None:
    """Check that a text model's folder has a tokenizer: from a folder without one, transformers makes an empty one.

    Args:
        source: a Hugging Face folder, or a .gguf file (which holds its own).

    Raises:
        AttarError: no tokenizer's file is there.
    """
    if source.is_dir() and not any((source / name).is_file() for name in TOKENIZERS):
        raise AttarError(
            f"{source} has no tokenizer: none of {', '.join(TOKENIZERS[:3])} or similar. Save the tokenizer beside the "
            "weights: tokenizer.save_pretrained(folder)."
        )


def parameter_count(source: Path) -> int | None:
    """Return the number of parameters, from the headers of the weights alone.

    Args:
        source: a Hugging Face folder, or a .gguf file.

    Returns:
        The count; tied weights count once; None if the folder holds no weights.

    Raises:
        AttarError: the weights are pickles, truncated or damaged.
    """
    if _is_gguf(source):
        return gguf_file.read_header(source).parameters
    if not any(source.glob("*.safetensors")) and not (source / INDEX).is_file() and not _pickles(source):
        return None
    return sum(headers.parameters(path) for path in _shards(source))


def model_config(source: Path) -> dict[str, Any]:
    """Return the model's ``config.json``, or the same facts of a GGUF file.

    Args:
        source: a Hugging Face folder, or a .gguf file.

    Raises:
        AttarError: the configuration is missing or no JSON object.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_text('{"hidden_size": 384}')
        >>> model_config(folder)
        {'hidden_size': 384}
    """
    if _is_gguf(source):
        return gguf_file.config(source)
    path = source / "config.json"
    if not path.is_file():
        names = [p.name for p in source.iterdir()] if source.is_dir() else []
        raise AttarError(
            f"{source} is no model folder: it has no config.json. Give the folder that save_pretrained wrote, or a "
            f".gguf file.{near('config.json', names)}"
        )
    config = read_json(path)
    if not isinstance(config, dict):
        raise AttarError(f"{path} must hold a JSON object, and holds a {type(config).__name__}. Download it again.")
    return config


def _is_gguf(source: Path) -> bool:
    if not source.is_file():
        return False
    if source.suffix == ".gguf":
        return True
    if source.suffix in headers.PICKLE_ENDINGS or headers.is_pickle(source):
        raise headers.refuse_pickle(source)
    raise AttarError(f"{source} is one file. A model is a folder with config.json and safetensors, or a .gguf file.")


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        return _indexed(index)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickles = _pickles(folder)
    if pickles:
        raise headers.refuse_pickle(pickles[0])
    if any(folder.glob("*.gguf")):
        raise AttarError(f"{folder} holds GGUF files. Name one of them: {next(folder.glob('*.gguf')).name}.")
    raise AttarError(f"{folder} holds no weights: no *.safetensors. Give a folder that has them, or a .gguf file.")


def _pickles(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in headers.PICKLE_ENDINGS and p.is_file())


def _indexed(index: Path) -> list[Path]:
    content = read_json(index)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        raise AttarError(f"{index} has no weight_map of tensors to files. Download it again.")
    names = sorted(set(table.values()))
    bad = [name for name in names if "/" in name or not name.endswith(".safetensors")]
    if bad:
        raise AttarError(f"{index} names '{bad[0]}', which is no safetensors file beside it. Choose another source.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise AttarError(
            f"{index.parent} is incomplete: {len(missing)} of {len(names)} weight files are missing, among them "
            f"{missing[0]}. Download the model again."
        )
    return [index.parent / name for name in names]
