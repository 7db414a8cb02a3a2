from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attar.compressors.vocabulary import KINDS, Vocabulary, _renumber_config, _trim_embeddings, trim_tokenizer
from attar.core.compressing import Calibration
from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.students import folder
from attar.tasks.text_classification import TextClassification

CALIBRATION = ["a fine warm jacket that fits well", "the zip broke, bad quality", "too small; I sent it back!"]
UNSEEN = ["terrible smell and open seams", "perfect length, great color", "zzz quick brown fox 42", "naïve 日本 ☃", ""]


def _look(texts: list[str]) -> Calibration:
    """Return what the step may look at: these texts."""
    examples = Examples(np.arange(len(texts)), texts, np.full(len(texts), UNKNOWN))
    return Calibration(TextClassification(), examples, texts)


def _model(tokenizer: Any, **changes: Any) -> Model:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes, **changes)
    module = BertForSequenceClassification(config).eval()
    return Model(module, "transformers", tokenizer, {"max_length": 64, "labels": ["a", "b"], "shape": []})


def _say(model: Model, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model.module(**model.processor(text, return_tensors="pt", return_token_type_ids=False)).logits


@pytest.fixture(params=["wordpiece", "bpe", "unigram"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(kind: str, tokenizer: Callable[[str], Any]) -> tuple[Model, Model]:
    """Return a model and the same one with its vocabulary trimmed."""
    before = _model(tokenizer(kind))
    after = Model(copy.deepcopy(before.module), before.kind, before.processor, dict(before.facts))
    return before, Vocabulary(Vocabulary.Settings()).apply(after, _look(CALIBRATION))[0]


def test_kept_texts_have_the_same_tokens_and_exactly_the_same_logits(pair: tuple[Model, Model]) -> None:
    before, after = pair
    for text in CALIBRATION:
        ids = [model.processor(text).input_ids for model in pair]
        tokens = [model.processor.convert_ids_to_tokens(i) for model, i in zip(pair, ids, strict=True)]
        assert tokens[0] == tokens[1]
        assert torch.equal(_say(before, text), _say(after, text))


def test_it_is_smaller_and_says_so(kind: str, tokenizer: Callable[[str], Any]) -> None:
    model = _model(tokenizer(kind))
    embeddings = model.module.get_input_embeddings().weight.numel()
    model, plan = Vocabulary(Vocabulary.Settings()).apply(model, _look(CALIBRATION))
    count = len(model.processor)
    assert plan.before["vocabulary"] > plan.after["vocabulary"] == count
    assert model.module.get_input_embeddings().weight.shape == (count, 32)
    assert model.module.config.vocab_size == count
    assert plan.before["parameters"] - plan.after["parameters"] == embeddings - 32 * count
    assert "3 texts" in plan.notes[0]


def test_special_ids_and_padding(pair: tuple[Model, Model]) -> None:
    before, after = pair
    names = before.processor.special_tokens_map
    assert after.processor.special_tokens_map == names
    for name in names.values():
        old, new = (model.processor.convert_tokens_to_ids(name) for model in pair)
        rows = [model.module.get_input_embeddings().weight[i] for model, i in zip(pair, (old, new), strict=True)]
        assert torch.equal(*rows)
    assert after.module.config.pad_token_id == after.processor.pad_token_id
    assert after.module.get_input_embeddings().padding_idx == after.processor.pad_token_id


def test_padding_to_the_longest_still_pads(pair: tuple[Model, Model]) -> None:
    _, after = pair
    batch = after.processor(CALIBRATION, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        together = after.module(**batch).logits
    assert torch.allclose(together, torch.cat([_say(after, text) for text in CALIBRATION]), atol=1e-5)


def test_unseen_texts_gain_no_unknown_and_keep_their_letters(pair: tuple[Model, Model]) -> None:
    for text in UNSEEN:
        unknowns = [
            m.processor(text).input_ids.count(m.processor.unk_token_id) if m.processor.unk_token else 0 for m in pair
        ]
        assert unknowns[1] <= unknowns[0]
        said = [
            m.processor.decode(m.processor(text).input_ids, skip_special_tokens=True).replace(" ", "") for m in pair
        ]
        assert said[0] == said[1]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=30) | st.text("abcdefghij klmnop,.!;Iq1#é", max_size=40))
@pytest.mark.parametrize("name", ["wordpiece", "bpe", "unigram"])
def test_any_text_can_still_be_written(name: str, text: str) -> None:
    before, after = _trimmed(name)
    unknown = before.unk_token
    counts = [t.convert_ids_to_tokens(t(text).input_ids).count(unknown) for t in (before, after)]
    assert counts[1] <= counts[0] or (name == "wordpiece" and counts[0] > 0)
    if name == "bpe":
        assert after.decode(after(text).input_ids) == text


CACHE: dict[str, tuple[Any, Any]] = {}


def _trimmed(name: str) -> tuple[Any, Any]:
    if name not in CACHE:
        from tests.conftest import train_tokenizer

        before = train_tokenizer(name)
        used = {i for text in CALIBRATION for i in before(text).input_ids}
        CACHE[name] = (before, trim_tokenizer(before, used)[0])
    return CACHE[name]


def test_it_saves_and_loads_in_plain_transformers(pair: tuple[Model, Model], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _, after = pair
    folder.save(after, tmp_path)
    module = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    plain = Model(module, "transformers", AutoTokenizer.from_pretrained(tmp_path), after.facts)
    for text in [*CALIBRATION, *UNSEEN[:3]]:
        assert plain.processor(text).input_ids == after.processor(text).input_ids
        assert torch.allclose(_say(plain, text), _say(after, text), atol=1e-6)  # weights lie differently in memory


def test_trimming_twice_changes_nothing_more(pair: tuple[Model, Model]) -> None:
    _, after = pair
    texts = {text: _say(after, text) for text in CALIBRATION}
    size = len(after.processor)
    again, _ = Vocabulary(Vocabulary.Settings()).apply(after, _look(CALIBRATION))
    assert len(again.processor) == size
    assert all(torch.equal(_say(again, text), said) for text, said in texts.items())


def test_minimum_count_drops_rare_tokens(tokenizer: Callable[[str], Any]) -> None:
    sizes = []
    for least in (1, 2, 100):
        step = Vocabulary(Vocabulary.Settings(minimum_count=least))
        model, _ = step.apply(_model(tokenizer("wordpiece")), _look([*CALIBRATION, CALIBRATION[0]]))
        sizes.append(len(model.processor))
        assert "[UNK]" not in model.processor.convert_ids_to_tokens(model.processor("jacket").input_ids)
    assert sizes[0] > sizes[1] > sizes[2]


def test_no_text_at_all_keeps_characters_and_specials(tokenizer: Callable[[str], Any]) -> None:
    model, _ = Vocabulary(Vocabulary.Settings()).apply(_model(tokenizer("wordpiece")), _look([]))
    assert {len(token.removeprefix("##")) for token in model.processor.get_vocab() if token[0] != "["} == {1}


def test_heads_over_the_vocabulary_shrink_and_stay_tied(llama_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = AutoModelForCausalLM.from_pretrained(llama_folder).eval()
    words = AutoTokenizer.from_pretrained(llama_folder)
    tokens = words(CALIBRATION[0], return_tensors="pt").input_ids
    with torch.no_grad():
        before = module(tokens).logits
    model, _ = Vocabulary(Vocabulary.Settings()).apply(
        Model(module, "transformers", words, {"max_length": 64}), _look(CALIBRATION)
    )
    size = len(model.processor)
    assert module.get_output_embeddings().weight is module.get_input_embeddings().weight
    assert module.get_output_embeddings().out_features == size == module.config.vocab_size
    new = model.processor(CALIBRATION[0], return_tensors="pt").input_ids
    with torch.no_grad():
        after = module(new).logits
    old = words.convert_tokens_to_ids(model.processor.convert_ids_to_tokens(range(size)))
    assert torch.allclose(after, before[..., old], atol=1e-5)  # a smaller product is summed in another order
    config = module.config
    assert (config.bos_token_id, config.eos_token_id) == (model.processor.bos_token_id, model.processor.eos_token_id)


def test_special_ids_of_the_configuration_follow() -> None:
    from transformers import GenerationConfig, LlamaConfig

    module = type("Module", (), {})()
    module.config = LlamaConfig(vocab_size=10, bos_token_id=4, eos_token_id=[9, 7], sep_token_id=3)
    module.generation_config = GenerationConfig(bos_token_id=4, eos_token_id=9)
    _renumber_config(module, type("Words", (), {"pad_token_id": 2}), [0, 4, 7, 9])
    config = module.config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, [3, 2], 2)
    assert getattr(config, "sep_token_id", None) is None
    assert (module.generation_config.bos_token_id, module.generation_config.eos_token_id) == (1, 3)


def test_untied_heads_shrink_with_their_bias(tokenizer: Callable[[str], Any]) -> None:
    from transformers import BertConfig, BertForMaskedLM

    words = tokenizer("wordpiece")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    module = BertForMaskedLM(BertConfig(vocab_size=len(words), tie_word_embeddings=False, **sizes)).eval()
    torch.nn.init.normal_(module.get_output_embeddings().bias)
    with torch.no_grad():
        before = module(**words(CALIBRATION[1], return_tensors="pt")).logits
    model, _ = Vocabulary(Vocabulary.Settings()).apply(Model(module, "", words, {"max_length": 64}), _look(CALIBRATION))
    with torch.no_grad():
        after = module(**model.processor(CALIBRATION[1], return_tensors="pt")).logits
    old = words.convert_tokens_to_ids(model.processor.convert_ids_to_tokens(range(len(model.processor))))
    assert torch.allclose(after, before[..., old], atol=1e-6)


def test_embeddings_that_scale_keep_scaling() -> None:
    class Scaled(torch.nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return 8 * super().forward(ids)

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = Scaled(10, 4, padding_idx=3)
            self.config = type("Config", (), {"vocab_size": 10})()

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.embed

        def get_output_embeddings(self) -> None:
            return None

    module = Holder()
    before = module.embed(torch.tensor([3, 7]))
    _trim_embeddings(module, [2, 3, 7])
    assert torch.equal(module.embed(torch.tensor([1, 2])), before)
    assert (module.embed.padding_idx, module.embed.num_embeddings, module.config.vocab_size) == (1, 3, 3)


def test_tokens_added_outside_the_vocabulary_move_along(tokenizer: Callable[[str], Any]) -> None:
    words = tokenizer("bpe")
    words.add_tokens(["<item>", "<price>"])
    trimmed, kept = trim_tokenizer(words, set(words("a fine jacket").input_ids))
    assert len(trimmed) == len(kept) < len(words)
    text = "a fine jacket<price>"
    assert trimmed.convert_ids_to_tokens(trimmed(text).input_ids) == words.convert_ids_to_tokens(words(text).input_ids)
    assert [kept[i] for i in trimmed(text).input_ids] == words(text).input_ids


def test_a_token_made_in_two_ways_keeps_both() -> None:
    model = {
        "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5, "abca": 6},
        "merges": [["a", "b"], ["ab", "c"], ["abc", "a"], ["b", "c"], ["a", "bc"]],
    }
    kept = KINDS["BPE"](model, {6})
    assert kept == list(range(7))
    assert len(model["merges"]) == 5


def test_merges_may_be_written_as_text_and_words_may_end_in_a_mark() -> None:
    model = {
        "vocab": {"a": 0, "b": 1, "b</w>": 2, "ab</w>": 3, "ab": 4, "<unk>": 5},
        "merges": ["a b</w>", "a b"],
        "end_of_word_suffix": "</w>",
        "unk_token": "<unk>",
    }
    assert KINDS["BPE"](model, {4}) == [0, 1, 2, 4, 5]
    assert model["merges"] == [["a", "b"]]
    assert model["vocab"] == {"a": 0, "b": 1, "b</w>": 2, "ab": 3, "<unk>": 4}


def test_a_token_whose_characters_are_nowhere_else_stays() -> None:
    wordpiece = {"vocab": {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3, "aß": 4, "##bß": 5, "##bb": 6}, "unk_token": "[UNK]"}
    assert KINDS["WordPiece"]({**wordpiece, "continuing_subword_prefix": "##"}, set()) == [0, 1, 2, 4, 5]
    unigram = {"vocab": [["<unk>", 0.0], ["a", -1.0], ["aa", -1.0], ["aß", -2.0], ["<0x0A>", -3.0]], "unk_id": 0}
    assert KINDS["Unigram"](unigram, set()) == [0, 1, 3, 4]


def test_other_tokenizers_are_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(AttarError, match="this one is WordLevel"):
        trim_tokenizer(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]"), {0})


@pytest.mark.parametrize("style", ["roberta", "bert", "sequence"])
def test_post_processors_are_renumbered(style: str, tokenizer: Callable[[str], Any]) -> None:
    from tokenizers import processors

    words = tokenizer("wordpiece")
    backend = words.backend_tokenizer
    vocabulary = words.get_vocab()
    last = max(vocabulary, key=lambda token: vocabulary[token])  # a high id, which moves
    ends = (last, vocabulary[last]), ("[CLS]", vocabulary["[CLS]"])
    made = {
        "roberta": lambda: processors.RobertaProcessing(*ends),
        "bert": lambda: processors.BertProcessing(*ends),
        "sequence": lambda: processors.Sequence(
            [processors.TemplateProcessing(single=f"[CLS] $A {last}", special_tokens=ends)]
        ),
    }
    backend.post_processor = made[style]()
    used = {i for text in CALIBRATION for i in words(text).input_ids}
    trimmed, kept = trim_tokenizer(words, used)
    assert json.loads(trimmed.backend_tokenizer.to_str())["post_processor"]
    for text in CALIBRATION:
        assert [kept[i] for i in trimmed(text).input_ids] == words(text).input_ids


def test_a_prompt_and_its_label_words_stay_whole(label_reader: Callable[..., Model], tmp_path: Path) -> None:
    from attar.core.prompt import TextPrompt
    from attar.tasks.text_classification import text_ids

    def said(model: Model) -> torch.Tensor:
        texts = Examples(np.arange(len(CALIBRATION)), CALIBRATION, np.zeros(len(CALIBRATION), np.int64))
        with torch.no_grad():
            return TextClassification().rows(model, TextClassification().collate(model, texts)).dense()

    prompt = TextPrompt("Review: {text}\nSentiment:", ("seams", "jacket"), instruction="quality or picture?")
    model = label_reader(prompt, max_length=40)
    before, size = said(model), len(model.processor)
    model, plan = Vocabulary(Vocabulary.Settings(minimum_count=2)).apply(model, _look(CALIBRATION[:2]))
    assert plan.after["vocabulary"] == len(model.processor) < size
    for longest in (4, 6, 40):  # a cut text must be cut where it was
        model = label_reader(prompt, max_length=longest)
        named = [model.processor.convert_ids_to_tokens(ids) for ids in text_ids(model, CALIBRATION)]
        model, _ = Vocabulary(Vocabulary.Settings()).apply(model, _look(CALIBRATION))
        assert [model.processor.convert_ids_to_tokens(ids) for ids in text_ids(model, CALIBRATION)] == named
    assert torch.allclose(said(model), before, atol=1e-6)
    folder.save(model, tmp_path)
    assert torch.equal(said(folder.load(tmp_path)), said(model))


def test_a_trained_prompt_comes_after(label_reader: Callable[..., Model]) -> None:
    model = label_reader()
    model.kind = "prompted"
    with pytest.raises(AttarError, match="before a prompt is trained"):
        Vocabulary(Vocabulary.Settings()).apply(model, _look(CALIBRATION))


def test_legal_leaves_the_configuration_as_it_is() -> None:
    config = {"model_type": "bert", "vocab_size": 100}
    assert Vocabulary(Vocabulary.Settings()).legal(config, "onnx") == config
