from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from attar.core.examples import UNKNOWN, Examples
from attar.core.nouns import Model
from attar.errors import AttarError
from attar.meters.text import rouge_l
from attar.seeds import derive
from attar.stages import generations as module
from attar.stages.generations import TextSettings, generations, mean_log_p, ranked_by
from attar.tasks.text_generation import TextGeneration, completion_tokens, prompt_tokens, was_cut
from attar.tasks.writing import WritingSettings, write

SAMPLED: dict[str, Any] = {"use": "teacher", "how": "sample", "samples": 4}


class Killed(Exception):
    """Stand for the kill of the process."""


def _scripted(monkeypatch: pytest.MonkeyPatch, written: dict[str, list[str]]) -> None:
    """Let the model write what the test says for each text."""
    monkeypatch.setattr(module, "write", lambda model, texts, settings, seed: [written[text] for text in texts])


@pytest.mark.parametrize("how", ["greedy", "beam"])
def test_the_teachers_texts_stand_where_the_gold_ones_were(
    how: str, writer: Callable[..., Model], pairs: Examples, tmp_path: Path
) -> None:
    beams = {"beams": 2} if how == "beam" else {}
    settings = TextSettings.model_validate({"use": "teacher", "how": how, **beams})
    taught, facts = generations(writer(), pairs, settings, 0, tmp_path)
    alone = write(writer(), [str(text) for text in pairs.inputs], WritingSettings(how=how, beams=2))
    assert list(taught.targets or ()) == [texts[0] for texts in alone]
    assert taught.keys.tolist() == pairs.keys.tolist()
    assert taught.inputs == pairs.inputs
    assert (taught.labels == UNKNOWN).all()
    counts = [len(writer().processor(texts[0], add_special_tokens=False).input_ids) for texts in alone]
    assert facts["mean_tokens"] == pytest.approx(np.mean(counts), abs=0.01)
    assert (facts["texts"], facts["examples"], facts["rejected"], facts["left_out"]) == (8, 8, 0, 0)
    assert facts["score"] is None


def test_the_samples_nearest_to_gold_are_kept(
    writer: Callable[..., Model], pairs: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = pairs.take(np.array([0, 1])).with_targets(["a fine jacket", "the zip broke"])
    texts = [str(text) for text in two.inputs]
    _scripted(
        monkeypatch,
        {texts[0]: ["warm", "a fine jacket", "a jacket", "warm"], texts[1]: ["", "the zip", "bad", ""]},
    )
    taught, facts = generations(writer(), two, TextSettings(**SAMPLED, keep=2), 0, tmp_path)
    assert taught.targets == ["a fine jacket", "a jacket", "the zip", "bad"]
    assert taught.inputs == [texts[0], texts[0], texts[1], texts[1]]
    first, second = (int(key) for key in two.keys)
    assert taught.keys.tolist() == [first, derive(first, "text", 1), second, derive(second, "text", 1)]
    # by hand: "a jacket" and "the zip" 2 * 2 / 5; kept (1 + 0.8) / 2 and (0.8 + 0) / 2, all 1.8 / 3 and 0.8 / 2
    assert facts["score"] == {"name": "rouge_l", "kept": 0.65, "all": 0.5}
    assert (facts["texts"], facts["rejected"], facts["distinct"]) == (4, 4, 1.0)


def test_without_gold_the_likeliest_samples_are_kept(
    writer: Callable[..., Model], texts: Examples, tmp_path: Path
) -> None:
    model, three = writer(), texts.without_labels().take(np.arange(3))
    taught, facts = generations(model, three, TextSettings(**SAMPLED), 5, tmp_path)
    order = np.argsort([len(str(text)) for text in three.inputs], kind="stable")
    samples = write(
        model, [str(three.inputs[i]) for i in order], WritingSettings(how="sample", samples=4), derive(5, "texts", 0)
    )
    best = {
        int(place): max(
            (text for text in some if text), key=lambda text: _plain_log_p(model, str(three.inputs[place]), text)
        )
        for place, some in zip(order, samples, strict=True)
    }
    assert list(taught.targets or ()) == [best[place] for place in range(3)]
    assert facts["score"]["name"] == "log_p"
    assert facts["score"]["kept"] > facts["score"]["all"]


def _plain_log_p(model: Model, text: str, target: str) -> float:
    prompt, answer = prompt_tokens(model, text), completion_tokens(model, target)
    with torch.no_grad():
        said = torch.log_softmax(model.module(input_ids=torch.tensor([prompt + answer])).logits[0].double(), dim=-1)
    known = answer[:-1] if was_cut(model, target) else answer
    return float(sum(said[len(prompt) - 1 + i, token] for i, token in enumerate(known)) / len(known))


def test_mean_log_p_is_that_of_the_tokens_one_by_one(writer: Callable[..., Model], pairs: Examples) -> None:
    model = writer()
    expected = [_plain_log_p(model, str(a), b) for a, b in zip(pairs.inputs, pairs.targets or (), strict=True)]
    assert mean_log_p(model, TextGeneration(), pairs) == pytest.approx(expected, abs=1e-4)
    assert len(mean_log_p(model, TextGeneration(), pairs.take(np.arange(0)))) == 0


def test_one_missing_target_lets_the_writer_judge(pairs: Examples) -> None:
    assert ranked_by(pairs) == "rouge_l"
    assert ranked_by(pairs.with_targets(["", *list(pairs.targets or ())[1:]])) == "log_p"
    assert ranked_by(pairs.without_labels()) == "log_p"


def test_an_example_without_a_text_is_left_out(
    writer: Callable[..., Model], pairs: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {str(text): ["" if place % 2 else "good"] for place, text in enumerate(pairs.inputs)}
    _scripted(monkeypatch, written)
    taught, facts = generations(writer(), pairs, TextSettings(use="teacher"), 0, tmp_path)
    assert taught.keys.tolist() == pairs.keys[::2].tolist()
    assert (facts["left_out"], facts["distinct"], facts["texts"]) == (4, 0.25, 4)


def test_a_teacher_that_writes_nothing_is_a_mistake(
    writer: Callable[..., Model], pairs: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _scripted(monkeypatch, {str(text): [""] for text in pairs.inputs})
    with pytest.raises(AttarError, match="wrote nothing for any example"):
        generations(writer(), pairs, TextSettings(use="teacher"), 0, tmp_path)


def test_a_continued_call_writes_nothing_again(
    writer: Callable[..., Model], pairs: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 3)
    settings, asked = TextSettings(**SAMPLED, keep=2), []
    undisturbed = generations(writer(), pairs, settings, 0, tmp_path / "undisturbed")

    def dies(model: Model, texts: list[str], how: Any, seed: int) -> list[list[str]]:
        asked.extend(texts)
        if len(asked) == 6 and len(set(asked)) == 6:
            raise Killed
        return write(model, texts, how, seed)

    monkeypatch.setattr(module, "write", dies)
    with pytest.raises(Killed):
        generations(writer(), pairs, settings, 0, tmp_path / "killed")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["texts-000000.jsonl"]
    taught, facts = generations(writer(), pairs, settings, 0, tmp_path / "killed")
    assert not set(asked[:3]) & set(asked[6:])
    assert set(asked[6:]) == {str(text) for text in pairs.inputs} - set(asked[:3])
    assert facts == undisturbed[1]
    assert taught.targets == undisturbed[0].targets
    assert taught.keys.tolist() == undisturbed[0].keys.tolist()


@pytest.mark.parametrize("damage", ['{"key": 1', '{"key": 1, "texts": []}', "[]", ""])
def test_a_damaged_file_is_named(damage: str, writer: Callable[..., Model], pairs: Examples, tmp_path: Path) -> None:
    (tmp_path / "texts-000000.jsonl").write_text(damage, encoding="utf-8")
    with pytest.raises(AttarError, match=r"texts-000000.jsonl cannot be read"):
        generations(writer(), pairs, TextSettings(use="teacher"), 0, tmp_path)


def test_a_text_with_strange_lines_comes_back_as_it_was(
    writer: Callable[..., Model], pairs: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = "one\u2028two\nthree \u0085 \U0001f600"
    _scripted(monkeypatch, {str(text): [strange] for text in pairs.inputs})
    taught, _ = generations(writer(), pairs, TextSettings(use="teacher"), 0, tmp_path)
    assert set(taught.targets or ()) == {strange}


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"keep": 2}, "keep is for how: sample"),
        ({"beams": 9}, "beams is for how: beam, got how: greedy"),
        ({"temperature": 3}, "temperature is for how: sample, got how: greedy"),
        ({"how": "beam", "top_p": 0.5}, "top_p is for how: sample, got how: beam"),
        ({"how": "sample", "beams": 9}, "beams is for how: beam, got how: sample"),
        ({"how": "beam", "samples": 2}, "samples is for how: sample"),
        ({"how": "sample", "samples": 2, "keep": 3}, "keep must be <= samples"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        TextSettings(**given)


@pytest.mark.parametrize("given", [{"how": "greedy"}, {"how": "beam", "beams": 9}, {"how": "sample", "top_p": 0.5}])
def test_settings_spelled_out_in_full_are_the_same_settings(given: dict[str, Any]) -> None:
    settings = TextSettings(**given)
    assert TextSettings(**settings.model_dump()) == settings


def test_more_samples_come_nearer_to_gold(writer: Callable[..., Model], pairs: Examples, tmp_path: Path) -> None:
    model, means = writer(), []
    for samples in (1, 16):
        settings = TextSettings(use="teacher", how="sample", samples=samples)
        taught, _ = generations(model, pairs, settings, 0, tmp_path / str(samples))
        gold = dict(zip(pairs.keys.tolist(), pairs.targets or (), strict=True))
        scores = [
            rouge_l(text, gold[key]) for key, text in zip(taught.keys.tolist(), taught.targets or (), strict=True)
        ]
        means.append(np.mean(scores))
    assert means[0] < means[1]
