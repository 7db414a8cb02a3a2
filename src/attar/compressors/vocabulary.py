"""Trim the vocabulary: keep the tokens that the task's text needs, and those from which any text can be made."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from attar.core.compressing import Calibration, unquantized
from attar.core.nouns import Model, Plan
from attar.core.prompt import TextPrompt
from attar.core.reading import first_tokens, frame_of, token_ids
from attar.errors import AttarError
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Vocabulary:
    """Shrink tokenizer and embeddings together.

    A token stays if the task's texts use it, if it is special, if it is a single character or byte, or if it has a
    character that no single-character token covers: any text that could be tokenized before still can be. Texts made
    of kept tokens are tokenized as before, so the model's answers on them do not change at all; an unseen word falls
    into shorter pieces. A model's prompt and label words are texts of the task, and keep all their tokens.

    Args:
        settings: see `Vocabulary.Settings`.
    """

    at: ClassVar[Literal["model", "export"]] = "model"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification"})

    class Settings(Settings):
        """Set which tokens stay."""

        minimum_count: int = Field(1, ge=1, description="times the task's texts must use a token for it to stay")

    def __init__(self, settings: Vocabulary.Settings) -> None:
        self.settings = settings

    def legal(self, config: Mapping[str, Any], to: str) -> Mapping[str, Any]:
        """Return the configuration as it is: how many tokens stay is known when the texts have been read."""
        return config

    def apply(self, model: Model, calibration: Calibration) -> tuple[Model, Plan]:
        """Trim a model in place.

        Args:
            model: a `transformers` classifier, or a language model that answers by label words, with a WordPiece, BPE
                or Unigram tokenizer.
            calibration: its inputs are the task's texts.

        Returns:
            The model with its new tokenizer, and what was done.

        Raises:
            AttarError: the model or its tokenizer is of another kind.
        """
        if model.kind == "prompted":
            raise AttarError("vocabulary works before a prompt is trained: its tokens are no words. Put it first.")
        if model.kind == "factored":
            raise AttarError("vocabulary works on a table, not on the factors of one. Put it before low_rank.")
        unquantized(model, "vocabulary")
        counts: Counter[int] = Counter()
        for ids in _read(model, [str(text) for text in calibration.inputs]):
            counts.update(ids)
        used = {token for token, count in counts.items() if count >= self.settings.minimum_count}
        before = _facts(model)
        tokenizer, kept = trim_tokenizer(model.processor, used | _prompt_tokens(model))
        network = getattr(model.module, "lm", model.module)
        _trim_embeddings(network, kept)
        _renumber_config(network, tokenizer, kept)
        model.processor = tokenizer
        if model.kind == "label_words":
            model.module.words.copy_(torch.tensor(first_tokens(tokenizer, _prompt(model))))  # type: ignore[operator]
        often = f"{self.settings.minimum_count} times or more in {len(calibration.inputs)} texts"
        note = f"{len(used)} tokens are used {often}"
        return model, Plan("vocabulary", before, _facts(model), (note,))


def _prompt(model: Model) -> TextPrompt:
    return TextPrompt.from_json(model.facts["prompt"])


def _read(model: Model, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the ids that the model reads of each text."""
    longest, framed = model.facts["max_length"], "prompt" in model.facts
    for text in texts:
        ids = model.processor(text, truncation=True, max_length=longest, add_special_tokens=not framed).input_ids
        if framed:  # a text is cut by itself, before the prompt stands around it: its first word can be another token
            read = token_ids(model.processor, frame_of(model.processor, _prompt(model), longest), [text])[0]
            ids = [*read, *(set(ids) - set(read))]
        yield ids


def _prompt_tokens(model: Model) -> set[int]:
    """Return the tokens of the prompt around an empty text, and of its answers."""
    if "prompt" not in model.facts:
        return set()
    prompt, tokenizer = _prompt(model), model.processor
    texts = [prompt.answer(place) for place in range(len(prompt.words))]
    answers = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    read = token_ids(tokenizer, frame_of(tokenizer, prompt, 1), [""])
    return {token for ids in [*answers, *read] for token in ids}


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

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        kept = _trim_file(folder / "tokenizer.json", used)
        for old in OLD_FILES:
            (folder / old).unlink(missing_ok=True)
        config = folder / "tokenizer_config.json"
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings.pop("added_tokens_decoder", None)
        config.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        trimmed = AutoTokenizer.from_pretrained(folder)
    trimmed.padding_side = tokenizer.padding_side
    return trimmed, kept


def _trim_file(path: Path, used: set[int]) -> list[int]:
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
    return kept


def _wordpiece(model: dict[str, Any], used: set[int]) -> list[int]:
    vocabulary, mark = model["vocab"], model["continuing_subword_prefix"]

    def pieces(token: str) -> list[str]:
        """Return the token cut into single characters, as WordPiece would write them."""
        if token.startswith(mark) and token != mark:
            return [mark + character for character in token.removeprefix(mark)]
        return [token[:1], *(mark + character for character in token[1:])]

    stays = {token for token, old in vocabulary.items() if old in used or _indivisible(pieces(token), vocabulary)}
    return _numbered(model, stays | {model["unk_token"]})


def _bpe(model: dict[str, Any], used: set[int]) -> list[int]:
    vocabulary: dict[str, int] = model["vocab"]
    mark, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    products = [left + (right.removeprefix(mark) if mark else right) for left, right in merges]
    made = set(products)
    stays = {token for token, old in vocabulary.items() if old in used or token not in made}
    bare = {token: token.removeprefix(mark).removesuffix(suffix) for token in vocabulary}
    stays |= {token for token in vocabulary if len(bare[token]) == 1 or _is_byte(token)}
    if model.get("unk_token") in vocabulary:
        stays.add(model["unk_token"])
    before = -1
    while before < len(stays):  # the parts of a part are made by earlier merges, but a token can be made in two ways
        before = len(stays)
        for merge, product in zip(reversed(merges), reversed(products), strict=True):
            if product in stays:
                stays.update(merge)
    model["merges"] = [list(merge) for merge, product in zip(merges, products, strict=True) if product in stays]
    return _numbered(model, stays)


def _unigram(model: dict[str, Any], used: set[int]) -> list[int]:
    unknown, known = model["unk_id"], {token for token, _ in model["vocab"]}
    kept = [
        old
        for old, (token, _) in enumerate(model["vocab"])
        if old in used or old == unknown or _is_byte(token) or _indivisible(list(token), known)
    ]
    model["vocab"] = [model["vocab"][old] for old in kept]
    model["unk_id"] = None if unknown is None else kept.index(unknown)
    return kept


def _indivisible(pieces: Sequence[str], known: Container[str]) -> bool:
    """Tell whether a token is a single character, or could not be written with single characters."""
    return len(pieces) <= 1 or any(piece not in known for piece in pieces)


def _numbered(model: dict[str, Any], stays: Container[str]) -> list[int]:
    kept = sorted((old, token) for token, old in model["vocab"].items() if token in stays)
    model["vocab"] = {token: new for new, (_, token) in enumerate(kept)}
    return [old for old, _ in kept]


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


KINDS: Mapping[str, Callable[[dict[str, Any], set[int]], list[int]]] = {
    "WordPiece": _wordpiece,
    "BPE": _bpe,
    "Unigram": _unigram,
}

OLD_FILES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model", "special_tokens_map.json")
"""Files with the old vocabulary, which transformers could prefer to ``tokenizer.json``."""


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
    """Shrink the embeddings, and every head over the vocabulary: those tied to them stay tied."""
    old = module.get_input_embeddings()
    head = module.get_output_embeddings()
    shared, count = old.weight, old.num_embeddings
    padding = None if old.padding_idx is None or old.padding_idx not in kept else list(kept).index(old.padding_idx)
    places = torch.tensor(list(kept), device=shared.device)
    fewer = _rows(shared, places)
    for part in [p for p in module.modules() if p is head or getattr(p, "weight", None) is shared]:
        part.weight = fewer if part.weight is shared else _rows(part.weight, places)
        if isinstance(part, torch.nn.Embedding):  # in place: some kinds scale what they give
            part.num_embeddings, part.padding_idx = len(kept), padding
        else:
            part.out_features = len(kept)
            if part.bias is not None and len(part.bias) == count:
                part.bias = _rows(part.bias, places)
    module.config.vocab_size = len(kept)


def _rows(parameter: torch.nn.Parameter, places: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(parameter.data[places].clone(), requires_grad=parameter.requires_grad)


def _renumber_config(module: Any, tokenizer: Any, kept: Sequence[int]) -> None:
    new = {old: place for place, old in enumerate(kept)}
    for config in (module.config, getattr(module, "generation_config", None)):
        for name in SPECIAL_IDS:
            old = getattr(config, name, None)
            if isinstance(old, int):
                setattr(config, name, new.get(old))
            elif isinstance(old, list):
                setattr(config, name, [new[one] for one in old if one in new])
    module.config.pad_token_id = tokenizer.pad_token_id


SPECIAL_IDS = tuple(f"{name}_token_id" for name in ("bos", "eos", "pad", "cls", "sep", "unk", "mask", "decoder_start"))
