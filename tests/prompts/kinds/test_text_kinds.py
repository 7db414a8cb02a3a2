"""Virtual tokens begun as a written prompt are that prompt, for reading and for writing; only they learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.core.cache import cache_name
from attar.core.examples import Examples
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.prompts.kinds.make import add_prompt
from attar.prompts.kinds.settings import SoftSettings
from attar.prompts.kinds.written import fitted, leading_tokens, written_tokens
from attar.students import folder
from attar.students.settings import ModelSettings
from attar.tasks.text_classification import TextClassification
from attar.tasks.text_generation import TextGeneration
from attar.tasks.writing import WritingSettings, write

SAID = "Judge the review: is it good or bad?"
KINDS = ("soft", "prefix")


def _written(model: Model, **changes: Any) -> TextPrompt:
    return replace(TextPrompt.from_json(model.facts["prompt"]), **{"instruction": SAID, **changes})


def _under(model: Model, kind: Any, written: TextPrompt | None = None, **settings: Any) -> Model:
    length = len(written_tokens(model, written)) if written is not None else 5
    return add_prompt(model, SoftSettings(**{"kind": kind, "length": length, **settings}), written)


def _network(model: Model) -> Any:
    return model.module


def _values(model: Model) -> Any:
    """Return what a prompt has learned: a parameter."""
    return _network(model).prompt.values


def _told(make: Callable[..., Model], written: TextPrompt, *where: Path) -> Model:
    return make(*where, **written.to_json())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes", [{}, {"demonstrations": (("soft and warm", 1), ("thin", 0))}], ids=["said", "shown"]
)
@pytest.mark.parametrize("begun", [False, True], ids=["bare", "begun"])
def test_begun_as_a_written_prompt_it_gives_that_prompts_scores(
    kind: str,
    changes: dict[str, Any],
    begun: bool,
    reader: Callable[..., Model],
    texts: Examples,
    llama_folder: Path,
    begun_folder: Path,
    scores: Callable[..., torch.Tensor],
) -> None:
    where = begun_folder if begun else llama_folder
    written = _written(reader(where), **changes)
    assert bool(leading_tokens(reader(where))) == begun
    told = scores(_told(reader, written, where), texts, TextClassification())
    prompted = _under(reader(where), kind, written)
    assert torch.allclose(scores(prompted, texts, TextClassification()), told, atol=1e-5)
    assert not torch.allclose(scores(reader(where), texts, TextClassification()), told, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begun", [False, True], ids=["bare", "begun"])
def test_a_writer_under_it_says_and_writes_what_it_would_under_the_text(
    kind: str,
    begun: bool,
    writer: Callable[..., Model],
    pairs: Examples,
    begun_folder: Path,
    scores: Callable[..., torch.Tensor],
) -> None:
    where = {"model": str(begun_folder)} if begun else {}
    model, told = (_writer(writer, begun_folder if begun else None) for _ in range(2))
    written = _written(model)
    told.facts["prompt"] = written.to_json()
    prompted = _under(model, kind, written)
    assert where.keys() <= {"model"}
    assert torch.allclose(scores(prompted, pairs, TextGeneration()), scores(told, pairs, TextGeneration()), atol=1e-4)
    some = [str(text) for text in pairs.inputs]
    for how in (WritingSettings(), WritingSettings(how="beam", beams=3), WritingSettings(how="sample", samples=3)):
        assert write(prompted, some, how, seed=3) == write(told, some, how, seed=3)
    assert write(prompted, some) != write(_writer(writer, begun_folder if begun else None), some)


def _writer(writer: Callable[..., Model], where: Path | None) -> Model:
    model = writer()
    if where is not None:
        from attar.students.transformers import load_tokenizer

        model.processor = load_tokenizer(where)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_depends_on_its_neighbors(
    kind: str, reader: Callable[..., Model], texts: Examples, scores: Callable[..., torch.Tensor]
) -> None:
    model = _under(reader(), kind)
    together = scores(model, texts, TextClassification())
    alone = [scores(model, texts.take([place]), TextClassification()) for place in range(len(texts))]  # type: ignore[arg-type]
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", ["vocabulary", "random"])
def test_gradients_reach_the_prompt_alone(kind: str, init: str, reader: Callable[..., Model], texts: Examples) -> None:
    model = _under(reader(), kind, init=init)
    batch = TextClassification().collate(model, texts)
    model.module.train()
    TextClassification().rows(model, batch).dense().logsumexp(dim=1).sum().backward()
    learned = {name for name, p in model.module.named_parameters() if p.grad is not None}
    assert learned == {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert [p for p in model.module.parameters() if p.requires_grad] == [_values(model)]
    gradient = _values(model).grad
    assert (gradient.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_slope(kind: str, reader: Callable[..., Model], texts: Examples) -> None:
    model = _under(reader(), kind)
    model.module.double()
    batch = TextClassification().collate(model, texts)
    values = _values(model)

    def loss() -> torch.Tensor:
        return TextClassification().rows(model, batch).dense()[:, 0].sum()

    loss().backward()
    step = torch.randn_like(values) * 1e-3  # the norms compute in float32
    with torch.no_grad():
        values += step
        above = loss()
        values -= 2 * step
        below = loss()
    assert float(above - below) / 2 == pytest.approx(float((values.grad * step).sum()), rel=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_costs(kind: str, reader: Callable[..., Model]) -> None:
    facts = _under(reader(), kind).facts["soft"]
    width = {"soft": 32, "prefix": 2 * 2 * 2 * 8}[kind]  # layers, keys and values, heads, width of a head
    assert (facts["length"], facts["virtual_tokens"], facts["parameters"]) == (5, 5, 5 * width)


def test_draws_come_from_torchs_seed(reader: Callable[..., Model]) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(_values(_under(reader(), "soft")))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_an_encoder_reads_virtual_tokens_behind_its_first(
    text_student: Model, texts: Examples, bert_folder: Path, scores: Callable[..., torch.Tensor]
) -> None:
    task = TextClassification()
    written = TextPrompt("judge this dress: {text}", ())
    said = [f"judge this dress: {text}" for text in texts.inputs]
    told = scores(text_student, Examples(texts.keys, said, texts.labels), task)
    prompted = _under(text_student, "soft", written)
    assert torch.allclose(scores(prompted, texts, task), told, atol=1e-5)
    assert prompted.facts["max_length"] == 32
    model = folder.make(ModelSettings(model=str(bert_folder), max_length=64), bert_folder, ["a", "b"], ())
    assert add_prompt(model, SoftSettings(length=10)).facts["max_length"] == 54


def test_a_classifier_on_a_language_model_finds_its_last_token(
    llama_folder: Path, texts: Examples, scores: Callable[..., torch.Tensor]
) -> None:
    torch.manual_seed(0)
    model = folder.make(ModelSettings(model=str(llama_folder), max_length=32), llama_folder, ["a", "b"], ())
    model.module.eval()
    for kind in KINDS:
        own = folder.make(ModelSettings(model=str(llama_folder), max_length=32), llama_folder, ["a", "b"], ())
        own.module.load_state_dict(model.module.state_dict())
        prompted = _under(own, kind, TextPrompt("Judge this.\n\n{text}", ()))
        told = Examples(texts.keys, [f"Judge this.\n\n{text}" for text in texts.inputs], texts.labels)
        found = scores(prompted, texts, TextClassification())
        assert torch.allclose(found, scores(model, told, TextClassification()), atol=1e-5)


def test_learned_positions_go_on_behind_the_prompt(texts: Examples, tmp_path: Path, tokenizer: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    words = tokenizer("bpe")
    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_embd=32, n_layer=2, n_head=4, n_positions=80)).eval()
    ids = torch.randint(0, len(words), (2, 9))
    head = torch.randint(0, len(words), (1, 4))
    facts = {"max_length": 70, "labels": [], "shape": []}
    with torch.no_grad():
        told = network(torch.cat([head.expand(2, -1), ids], dim=1)).logits[:, 4:]
        for kind in KINDS:
            model = add_prompt(Model(network, "causal", words, dict(facts)), SoftSettings(kind=kind, length=4))
            if kind == "soft":
                _values(model).copy_(network.transformer.wte.own(head[0]))
            else:
                kept = network.transformer(head, use_cache=True)[cache_name(network)]
                _values(model).copy_(torch.stack([torch.cat([a.keys, a.values]) for a in kept.layers]))
            assert torch.allclose(model.module(ids).logits, told, atol=1e-4)
            if kind == "soft":
                _network(model).prompt.detach(network)


def test_under_autocast_it_stays_near(
    reader: Callable[..., Model], texts: Examples, scores: Callable[..., torch.Tensor]
) -> None:
    for kind in KINDS:
        model = _under(reader(), kind)
        exact = scores(model, texts, TextClassification())
        with torch.autocast("cpu", torch.bfloat16):
            near = scores(model, texts, TextClassification())
        assert 0 < float((near - exact).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_bfloat16_reads_it(kind: str, reader: Callable[..., Model], texts: Examples) -> None:
    model = reader()
    model.module.to(torch.bfloat16)
    prompted = _under(model, kind)
    batch = TextClassification().collate(prompted, texts)
    said = TextClassification().rows(prompted, batch).dense()
    said.float().square().sum().backward()
    assert said.dtype == torch.bfloat16
    assert _values(prompted).dtype == torch.float32
    assert float(_values(prompted).grad.abs().sum()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_does_not_silence_it(kind: str, reader: Callable[..., Model], texts: Examples) -> None:
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        model = _under(reader(), kind)
        if on:
            _network(model).base.lm.gradient_checkpointing_enable()
        model.module.train()
        batch = TextClassification().collate(model, texts)
        TextClassification().rows(model, batch).dense().logsumexp(dim=1).sum().backward()
        gradients.append(_values(model).grad)
    assert float(gradients[0].abs().sum()) > 0
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stands_before_the_prompt(kind: str, writer: Callable[..., Model]) -> None:
    model, ids = _under(writer(), kind), torch.tensor([[5, 6, 7]])
    kept = _network(writer()).base_model(ids, use_cache=True)[cache_name(_network(writer()))]
    for call in (_network(model), _network(model).base_model):
        with pytest.raises(ValueError, match="begins with its prompt"):
            call(ids, cache=kept)


def test_a_longer_prompt_keeps_its_end_and_a_shorter_is_repeated(reader: Callable[..., Model]) -> None:
    model = reader()
    ids = written_tokens(model, _written(model))
    table = model.module.get_input_embeddings()  # type: ignore[operator]
    for length in (3, len(ids) + 2):
        prompted = add_prompt(reader(), SoftSettings(length=length), _written(model))
        assert torch.equal(_values(prompted), table(torch.tensor(fitted(ids, length))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction": ""}, "says nothing before"),
        ({"template": "Text: {text}\nSentiment:"}, "must end as the model's own"),
        ({"template": "Review: {text}\nMood:"}, "must end as the model's own"),
    ],
)
def test_a_prompt_that_cannot_stand_before_is_refused(
    changes: dict[str, Any], message: str, reader: Callable[..., Model]
) -> None:
    with pytest.raises(AttarError, match=message):
        _under(reader(), "soft", _written(reader(), **changes), length=4)


def test_what_does_not_fit_is_refused(
    reader: Callable[..., Model], text_student: Model, net: Callable[..., Model]
) -> None:
    with pytest.raises(AttarError, match="needs a causal language model"):
        _under(text_student, "prefix")
    with pytest.raises(AttarError, match=r"does not fit a model that reads texts\. Set kind: soft or prefix"):
        _under(reader(), "pixel")
    with pytest.raises(AttarError, match="does not fit a model that reads images"):
        _under(net(), "soft")
    with pytest.raises(AttarError, match="has a trained prompt already"):
        _under(_under(reader(), "soft"), "soft")
    with pytest.raises(AttarError, match="needs a written prompt"):
        _under(reader(), "soft", init="text")
    with pytest.raises(AttarError, match="leaves a text no room"):
        _under(reader(), "soft", length=510)
