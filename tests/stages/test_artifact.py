"""The prompt that wins is the one in the bundle, to the last bit, and luck wins nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.core.examples import UNKNOWN, DataSet, Examples
from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.exporters.bundle import Bundle
from attar.exporters.onnx import OnnxExporter
from attar.prompts.kinds.make import add_prompt
from attar.prompts.kinds.settings import SoftSettings
from attar.stages import artifact
from attar.stages.artifact import ArtifactRaceSettings, race_prompts
from attar.stages.device import threads
from attar.students import folder as students

PLAIN = TextPrompt("Review: {text}\nSentiment:", ("good", "bad"))
TOLD = TextPrompt("{text}\nIn short:", ("good", "bad"), instruction="Judge the jacket or the dress.")
BIASED = PLAIN.calibrated((9.0, -9.0))
WORDS = ("a", "fine", "warm", "jacket", "zip", "broke", "bad", "quality", "love", "dress", "small", "cheap", "color")
INT8 = [("dynamic_int8", {})]
SETTINGS = ArtifactRaceSettings(texts=3)
pytestmark = pytest.mark.usefixtures("kept_graphs")


def _texts(count: int) -> list[str]:
    random = np.random.Generator(np.random.PCG64(5))
    return [" ".join(random.choice(WORDS, int(random.integers(3, 9)))) for _ in range(count)]


def _data(labels: np.ndarray, texts: list[str]) -> DataSet:
    examples = Examples(np.arange(len(texts)), texts, np.asarray(labels, np.int64))
    return DataSet(("fine", "bad"), examples, examples, examples, frozenset({"validation"}))


@pytest.fixture
def folders(label_reader: Callable[..., Model], tmp_path: Path) -> dict[str, Path]:
    """Return the folders of one tiny model under five prompts."""
    torch.manual_seed(0)
    prompts = {"none": PLAIN, "text": TOLD, "calibrated": BIASED}
    models = {name: label_reader(prompt, layers=1) for name, prompt in prompts.items()}
    for kind in ("soft", "prefix"):
        models[kind] = add_prompt(label_reader(layers=1), SoftSettings(kind=kind, length=2, init="random"))
    for name, model in models.items():
        students.save(model, tmp_path / "models" / name)
    return {name: tmp_path / "models" / name for name in models}


@pytest.fixture
def best_is_text(folders: dict[str, Path], tmp_path: Path) -> DataSet:
    """Return examples whose labels are what the bundle under the prompt ``text`` answers."""
    texts = _texts(60)
    bare = _data(np.arange(60) % 2, texts)
    artifact.export(folders["text"], "text-classification", INT8, bare, (tmp_path, tmp_path / "judge"))
    return _data(Bundle(tmp_path / "judge", threads()).scores(texts).argmax(axis=1), texts)


def _race(folders: Mapping[str, Path], data: DataSet, tmp_path: Path) -> dict[str, Any]:
    places = (tmp_path / "work", tmp_path / "content")
    return race_prompts(folders, "text-classification", INT8, data, SETTINGS, places)


def _journal(tmp_path: Path, event: str, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (tmp_path / "work" / "race.jsonl").read_text().splitlines()]
    return [line for line in lines if (line["event"], line["name"]) == (event, name)]


def test_the_winner_scores_exactly_as_searched_also_after_kills(
    folders: dict[str, Path], best_is_text: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = _race(folders, best_is_text, tmp_path / "undisturbed")
    own, exports = artifact.export, list[str]()

    def killed(source: Path, *rest: Any) -> Any:
        """Export once, then be killed before the next."""
        if len(exports) in (1, 3) and source.name != exports[-1]:
            exports.append(source.name)
            raise KeyboardInterrupt
        exports.append(source.name)
        return own(source, *rest)

    monkeypatch.setattr(artifact, "export", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _race(folders, best_is_text, tmp_path)
        assert not (tmp_path / "content").exists()
    found = _race(folders, best_is_text, tmp_path)
    assert exports == ["none", "text", "text", "calibrated", "calibrated", "soft", "prefix"]  # twice: those killed
    assert found["prompt"]["name"] == "text"
    assert found["prompt"]["kept"]
    for facts in (wanted, found):
        for row in facts["prompt"]["tried"]:
            assert row.pop("ms") > 0
    assert found == wanted

    event = _journal(tmp_path, "race", "text")
    assert len(event) == 1
    split = artifact._parted(best_is_text.validation, SETTINGS.held_out, 0)
    bundle = Bundle(tmp_path / "content", threads())
    scores = bundle.scores(split["race"].inputs)
    assert scores.tolist() == event[0]["scores"]
    row = next(row for row in found["prompt"]["tried"] if row["name"] == "text")
    assert float((scores.argmax(axis=1) == split["race"].labels).mean()) == row["score"] == 1.0
    assert bundle.scores(split["held out"].inputs).tolist() == _journal(tmp_path, "held out", "text")[0]["scores"]
    assert bundle.card["input"]["before"].startswith("Judge the jacket")
    assert bundle.card["precision"] == found["precision"] == "int8"
    assert found["preflight"][-1] == {
        "name": "the bundle scores as in the race",
        "passed": True,
        "value": "16 examples, exactly",
    }


def test_a_network_is_exported_once_for_all_its_texts(
    folders: dict[str, Path], best_is_text: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, kinds = OnnxExporter.export, list[str]()

    def export(self: Any, model: Model, path: Path) -> None:
        """Count."""
        kinds.append(model.kind)
        own(self, model, path)

    monkeypatch.setattr(OnnxExporter, "export", export)
    _race(folders, best_is_text, tmp_path)
    assert kinds == ["label_words", "prompted", "prompted"]
    assert not (tmp_path / "work" / "graphs").exists()
    words = {"words": ("jacket", "bad")}
    other = students.load(folders["text"])
    other.facts["prompt"] |= words
    students.save(other, tmp_path / "other")
    _race({"none": folders["none"], "text": tmp_path / "other"}, best_is_text, tmp_path / "again")
    assert kinds[3:] == ["label_words", "label_words"]


def test_the_table_tells_what_each_costs(folders: dict[str, Path], best_is_text: DataSet, tmp_path: Path) -> None:
    told = _race(folders, best_is_text, tmp_path)["prompt"]
    rows = {row["name"]: row for row in told["tried"]}
    assert list(rows) == ["none", "text", "calibrated", "soft", "prefix"]
    assert [row["kind"] for row in rows.values()] == ["text", "text", "text, calibrated", "soft", "prefix"]
    assert rows["soft"]["tokens"] == rows["prefix"]["tokens"] == rows["none"]["tokens"] + 2
    assert rows["calibrated"]["tokens"] == rows["none"]["tokens"] < rows["text"]["tokens"]
    assert all(row["low"] <= row["score"] <= row["high"] and row["n"] == 36 for row in rows.values())
    assert "p" not in rows["none"]
    assert rows["text"]["p"] < 0.05
    assert (rows["text"]["left"], rows["none"]["left"]) == ("won", "lost")
    assert told["gain"]["n"] == 24
    assert told["gain"]["low"] > 0
    assert "is no luck" in told["why"]
    assert not _journal(tmp_path, "held out", "soft")  # who did not win is not judged


def test_luck_is_no_gain(folders: dict[str, Path], best_is_text: DataSet, tmp_path: Path) -> None:
    data, chosen = best_is_text.validation, artifact._parted(best_is_text.validation, SETTINGS.held_out, 0)
    labels = data.labels.copy()
    by_key = {int(key): place for place, key in enumerate(data.keys)}
    for turn, key in enumerate(chosen["held out"].keys):  # right on the first part, a coin on the other
        labels[by_key[int(key)]] = turn % 2
    some = {name: folders[name] for name in ("none", "text")}
    told = _race(some, _data(labels, list(data.inputs)), tmp_path)["prompt"]
    assert (told["kept"], told["name"]) == (False, "none")
    assert "may be luck" in told["why"]
    assert [row["left"] for row in told["tried"]] == ["won", "not proven"]
    assert Bundle(tmp_path / "content").card["input"]["before"] == "Review: "


def test_no_prompt_better_than_none_is_not_judged(folders: dict[str, Path], tmp_path: Path) -> None:
    texts = _texts(20)
    alike = {name: folders["none"] for name in ("none", "text")}
    told = _race(alike, _data(np.arange(20) % 2, texts), tmp_path)["prompt"]
    assert (told["kept"], told["gain"]) == (False, None)
    assert told["why"].startswith("no gain: no prompt answers more")
    assert not _journal(tmp_path, "held out", "none")
    alone = _race({"none": folders["none"]}, _data(np.arange(20) % 2, texts), tmp_path / "alone")["prompt"]
    assert (alone["name"], len(alone["tried"])) == ("none", 1)


def test_a_bundle_that_changed_is_scored_again(folders: dict[str, Path], best_is_text: DataSet, tmp_path: Path) -> None:
    some = {name: folders[name] for name in ("none", "text")}
    _race(some, best_is_text, tmp_path)
    (tmp_path / "work" / "text" / "bundle" / "bundle.json").unlink()
    assert _race(some, best_is_text, tmp_path)["prompt"]["name"] == "text"
    assert [len(_journal(tmp_path, "exported", name)) for name in ("none", "text")] == [1, 2]


def test_a_candidate_that_cannot_be_exported_is_out(
    folders: dict[str, Path], best_is_text: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = artifact.export

    def export(source: Path, *rest: Any) -> Any:
        """Refuse one candidate."""
        if source.name == refused:
            raise AttarError("It cannot be exported to ONNX.")
        return own(source, *rest)

    monkeypatch.setattr(artifact, "export", export)
    refused = "prefix"
    some = {name: folders[name] for name in ("none", "text", "prefix")}
    told = _race(some, best_is_text, tmp_path)["prompt"]
    assert told["name"] == "text"
    assert told["tried"][-1] == {"name": "prefix", "n": 0, "left": "out: It cannot be exported to ONNX."}
    refused = "none"
    with pytest.raises(AttarError, match="cannot be exported"):
        _race(some, best_is_text, tmp_path / "other")


def test_scores_that_are_no_numbers_stop_the_race(
    folders: dict[str, Path], best_is_text: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Bundle):
        def scores(self, inputs: Any) -> np.ndarray:
            return super().scores(inputs) * np.nan

    monkeypatch.setattr(artifact, "Bundle", Silent)
    with pytest.raises(AttarError, match="scores that are no numbers"):
        _race(folders, best_is_text, tmp_path)


def test_what_a_race_needs(folders: dict[str, Path], best_is_text: DataSet, tmp_path: Path) -> None:
    with pytest.raises(AttarError, match="needs the candidate 'none'"):
        _race({"text": folders["text"]}, best_is_text, tmp_path)
    unlabeled = _data(np.full(60, UNKNOWN), list(best_is_text.validation.inputs))
    with pytest.raises(AttarError, match="at least two validation examples with a label, got 0"):
        _race(folders, unlabeled, tmp_path)


def test_a_bundle_that_scores_otherwise_than_in_the_race_is_refused(
    folders: dict[str, Path], best_is_text: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Bundle):
        def scores(self, inputs: Any) -> np.ndarray:
            return super().scores(inputs) + (1e-6 if self.folder.name == "content" else 0)

    monkeypatch.setattr(artifact, "Bundle", Other)
    with pytest.raises(AttarError, match="does not score as it did in the race"):
        _race({"none": folders["none"]}, best_is_text, tmp_path)
