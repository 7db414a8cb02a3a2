"""Trim the vocabulary: keep the tokens that the task's text needs, and those from which any text can be made."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from attar.core.nouns import Model, Plan
from attar.errors import AttarError
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Vocabulary:
    """Shrink tokenizer and embeddings together.

    A token stays if the training texts use it, if it is special, or if it is a single character or byte (any text
    that could be tokenized before still can be). Texts made of kept tokens are tokenized as before, so the model's
    answers on them do not change at all; an unseen word falls into shorter pieces.

    Args:
        settings: see `Vocabulary.Settings`.
    """

    at: ClassVar[Literal["model", "export"]] = "model"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification"})
    needs_calibration: ClassVar[bool] = True

    class Settings(Settings):
        """Set which tokens stay."""

        minimum_count: int = Field(1, ge=1, description="times the training texts must use a token for it to stay")

    def __init__(self, settings: Vocabulary.Settings) -> None:
        self.settings = settings

    def apply(self, model: Model, calibration: Sequence[str]) -> tuple[Model, Plan]:
        """Trim a model in place.

        Args:
            model: a `transformers` classifier with a WordPiece, BPE or Unigram tokenizer.
            calibration: the task's training texts.

        Returns:
            The model with its new tokenizer, and what was done.

        Raises:
            AttarError: the tokenizer is of another kind.
        """
        counts: Counter[int] = Counter()
        for text in calibration:
            counts.update(model.processor(text, truncation=True, max_length=model.facts["max_length"]).input_ids)
        used = {token for token, count in counts.items() if count >= self.settings.minimum_count}
        before = _facts(model)
        tokenizer, kept = trim_tokenizer(model.processor, used)
        _trim_embeddings(model.module, kept)
        model.processor = tokenizer
        model.module.config.pad_token_id = tokenizer.pad_token_id
        note = f"{len(used)} tokens are used {self.settings.minimum_count} times or more in {len(calibration)} training texts"
        return model, Plan("vocabulary", before, _facts(model), (note,))


def _facts(model: Model) -> dict[str, float]:
    parameters = sum(p.numel() for p in model.module.parameters())
    return {"parameters": parameters, "vocabulary": model.module.get_input_embeddings().num_embeddings}  # type: ignore[operator]


def trim_tokenizer(tokenizer: Any, used: set[int]) -> tuple[Any, list[int]]:
    """Return a tokenizer of the same kind with fewer tokens.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        used: ids to keep.

    Returns:
        The new tokenizer, and the old ids in their new order.

    Raises:
        AttarError: the tokenizer's model is none of WordPiece, BPE and Unigram.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise AttarError("vocabulary can trim fast tokenizers alone (with a tokenizer.json). Leave the step out.")
        body = json.loads(path.read_text(encoding="utf-8"))
        kind = body["model"].get("type")
        if kind not in KINDS:
            raise AttarError(f"vocabulary can trim {', '.join(KINDS)} tokenizers, this one is {kind}. Leave the step out.")
        added = {int(token["id"]) for token in body["added_tokens"]}
        kept = KINDS[kind](body["model"], used | added)
        kept += sorted(added - set(kept))  # added tokens that lie outside the model's own vocabulary
        _renumber(body, {old: new for new, old in enumerate(kept)})
        path.write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
        for name in ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model", "special_tokens_map.json"):
            (Path(folder) / name).unlink(missing_ok=True)  # the old vocabulary, which transformers could prefer
        config = Path(folder) / "tokenizer_config.json"
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings.pop("added_tokens_decoder", None)
        config.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        trimmed = AutoTokenizer.from_pretrained(folder)
    trimmed.padding_side = tokenizer.padding_side
    return trimmed, kept


def _wordpiece(model: dict[str, Any], used: set[int]) -> list[int]:
    mark = model["continuing_subword_prefix"]
    kept = [
        (token, old)
        for token, old in sorted(model["vocab"].items(), key=lambda pair: pair[1])
        if old in used or token == model["unk_token"] or len(token.removeprefix(mark)) == 1
    ]
    model["vocab"] = {token: new for new, (token, _) in enumerate(kept)}
    return [old for _, old in kept]


def _bpe(model: dict[str, Any], used: set[int]) -> list[int]:
    vocabulary: dict[str, int] = model["vocab"]
    stays = {token for token, old in vocabulary.items() if old in used or len(token) == 1 or _is_byte(token)}
    merges = []
    for merge in reversed(model["merges"]):  # parts are made by earlier merges, so one pass backward finds all
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if left + right in stays:
            stays |= {left, right}
            merges.append(merge)
    model["merges"] = merges[::-1]
    kept = [(token, old) for token, old in sorted(vocabulary.items(), key=lambda pair: pair[1]) if token in stays]
    model["vocab"] = {token: new for new, (token, _) in enumerate(kept)}
    return [old for _, old in kept]


def _unigram(model: dict[str, Any], used: set[int]) -> list[int]:
    unknown = model["unk_id"]
    kept = [
        old
        for old, (token, _) in enumerate(model["vocab"])
        if old in used or old == unknown or len(token) == 1 or _is_byte(token)
    ]
    model["vocab"] = [model["vocab"][old] for old in kept]
    model["unk_id"] = None if unknown is None else kept.index(unknown)
    return kept


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


KINDS: Mapping[str, Callable[[dict[str, Any], set[int]], list[int]]] = {
    "WordPiece": _wordpiece,
    "BPE": _bpe,
    "Unigram": _unigram,
}


def _renumber(body: dict[str, Any], new: Mapping[int, int]) -> None:
    for token in body["added_tokens"]:
        token["id"] = new[int(token["id"])]
    processors = body.get("post_processor") or {}
    for processor in [processors, *processors.get("processors", [])]:
        for special in (processor.get("special_tokens") or {}).values():
            special["ids"] = [new[int(old)] for old in special["ids"]]
        for side in ("sep", "cls"):
            if isinstance(processor.get(side), list):
                processor[side][1] = new[int(processor[side][1])]
    if isinstance(body.get("padding"), dict):
        body["padding"]["pad_id"] = new[int(body["padding"]["pad_id"])]


def _trim_embeddings(module: Any, kept: Sequence[int]) -> None:
    places = torch.tensor(list(kept))
    old = module.get_input_embeddings()
    tied = module.get_output_embeddings() is not None and module.get_output_embeddings().weight is old.weight
    padding = None if old.padding_idx is None or old.padding_idx not in kept else list(kept).index(old.padding_idx)
    new = torch.nn.Embedding(len(kept), old.embedding_dim, padding_idx=padding)
    new.weight.data.copy_(old.weight.data[places])
    module.set_input_embeddings(new)
    if tied:
        module.get_output_embeddings().weight = new.weight
    module.config.vocab_size = len(kept)
