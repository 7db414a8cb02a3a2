"""Ready recipes from one end to the other, as a user runs them: `digits` whole, `reviews` cut small."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("BEATS", "NO BEATS", "INCONCLUSIVE")
CUT = (
    *("data.train=128", "data.validation=64", "data.test=100", "distill.epochs=1", "prompt.teacher.block=16"),
    *("prompt.teacher.generations=1", "prompt.teacher.children=4"),
    *("measure.texts=10", "measure.warmup=2", "measure.own_prompt_examples=40", "measure.resamples=1000"),
    "measure.agreement=0.7",  # four steps leave the student near the middle, where int8 turns answers over
)
WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers"):
    sys.modules[name] = None  # an import of it fails
from attar.cli import main
main()
"""


@dataclass(frozen=True)
class Finished:
    """Hold a finished run with the environment it ran in."""

    folder: Path
    environment: dict[str, str]
    summary: dict[str, Any]

    def attar(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line once more in the same place."""
        return attar(self.environment, *words)

    def model(self, name: str) -> dict[str, Any]:
        """Return one model's figures."""
        return next(model for model in self.summary["models"] if model["name"] == name)


def attar(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attar", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)


def finish(place: Path, recipe: str, *overrides: str) -> Finished:
    """Run a recipe in a place of its own, from nothing."""
    own = {"ATTAR_CACHE": str(place / "cache"), "ATTAR_RUNS": str(place / "runs")}
    environment = {**os.environ, **own}
    environment.pop("HF_HUB_OFFLINE", None)
    done = attar(environment, "run", recipe, "--json", *(word for one in overrides for word in ("--set", one)))
    assert done.returncode == 0, done.stderr[-4000:]
    folder = place / "runs" / recipe
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == summary
    return Finished(folder, environment, summary)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("digits"), "digits")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("reviews"), "reviews", *CUT)


@pytest.fixture(params=["digits", "reviews"])
def run(request: pytest.FixtureRequest) -> Finished:
    return request.getfixturevalue(request.param)


def test_every_model_is_measured(run: Finished) -> None:
    names = [model["name"] for model in run.summary["models"]]
    assert names == ["teacher", "control", "student", "compressed", "exported"]
    for model in run.summary["models"]:
        quality = model["quality"]
        assert 0 <= quality["low"] <= quality["value"] <= quality["high"] <= 1
        assert quality["n"] == run.summary["examples"]["test"]
        assert 0 < model["latency_ms"]["p50"] <= model["latency_ms"]["p90"]
        assert min(model["parameters"], model["flops"], model["bytes"]) > 0
        assert sum(map(sum, model["confusion"])) == quality["n"]
    assert run.model("exported")["bytes"] < run.model("teacher")["bytes"]
    assert run.model("exported")["precision"] == "int8"


def test_verdict_follows_from_its_interval(run: Finished) -> None:
    verdict = run.summary["verdict"]
    wanted = "BEATS" if verdict["low"] > 0 else "NO BEATS" if verdict["high"] <= 0 else "INCONCLUSIVE"
    assert verdict["result"] == wanted
    assert verdict["result"] in WORDS
    gain = run.model("student")["quality"]["value"] - run.model("control")["quality"]["value"]
    assert verdict["difference"] == pytest.approx(gain, abs=2e-6)


def test_checks_passed(run: Finished) -> None:
    assert len(run.summary["preflight"]) >= 5
    assert all(check["passed"] for check in (*run.summary["preflight"], *run.summary["checks"]))
    assert run.summary["record"]["rows"] == sum(run.summary["examples"].values())
    assert run.summary["record"]["fidelity"]["gradient_error"] < 1e-2


def test_run_folder_is_complete(run: Finished) -> None:
    names = {path.name for path in run.folder.iterdir()}
    assert {"recipe.yaml", "journal.jsonl", "summary.json", "report.html", "README.md", "bundle"} <= names
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert run.summary["verdict"]["result"] in page
    assert "```mermaid" in (run.folder / "README.md").read_text(encoding="utf-8")


def test_summary_is_documented(run: Finished) -> None:
    page = (ROOT / "docs" / "reference" / "summary.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    models = {key for model in run.summary["models"] for key in model}
    stages = {key for stage in run.summary["pipeline"] for key in stage}
    rows = {key for curve in run.summary["curves"].values() for row in curve for key in row}
    keys = {*run.summary, *models, *stages, *rows, *run.summary["verdict"], *run.summary["record"]}
    assert keys - named == set()


def test_second_run_computes_nothing(run: Finished) -> None:
    again = run.attar("run", str(run.folder), "--folder", str(run.folder), "--json")
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stderr.count("stored already") == len(run.summary["pipeline"])
    assert json.loads(again.stdout)["models"] == run.summary["models"]


def test_verbs_read_the_run(run: Finished) -> None:
    name = run.folder.name
    assert json.loads(run.attar("show", name, "--json").stdout)["models"] == run.summary["models"]
    shown = run.attar("show", name)
    assert run.summary["verdict"]["result"] in shown.stdout
    assert name in run.attar("list").stdout
    compared = run.attar("compare", name, name)
    assert compared.returncode == 0, compared.stderr


def test_digits_keeps_its_promise(digits: Finished) -> None:
    assert digits.model("teacher")["quality"]["value"] >= 0.97
    assert digits.model("student")["quality"]["value"] >= 0.9
    assert digits.model("student")["parameters"] <= digits.model("teacher")["parameters"] / 20
    assert digits.summary["control_learns_from"] == "gold labels"


def test_digits_bundle_reads_an_image(digits: Finished) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    path = digits.folder / "one.png"
    Image.fromarray((found.images[1] * 255 / 16).round().astype("uint8")).save(path)
    assert next(predict(digits, str(path)))["label"] == str(found.target[1])


def test_reviews_learns_from_the_teacher_alone(reviews: Finished) -> None:
    assert reviews.summary["gold"] == ["validation", "test"]
    assert reviews.summary["control_learns_from"] == "the teacher's hard labels"
    assert reviews.summary["examples"] == {"train": 128, "validation": 64, "test": 100}
    assert reviews.model("teacher")["quality"]["value"] >= 0.6  # plain prompts gave 0.5; the race has 64 examples here
    assert reviews.model("teacher")["parameters"] == 134_515_008


def test_reviews_prompt_was_raced(reviews: Finished) -> None:
    prompt = reviews.summary["prompt"]["teacher"]
    assert len(prompt["tried"]) > 5
    assert [row["left"] for row in prompt["tried"]].count("won") == 1
    assert prompt["criterion"].startswith("accuracy on validation")
    assert prompt["after"]["quality"] == reviews.model("teacher")["quality"]
    assert prompt["before"]["template"] == "Review: {text}\nSentiment:"


def test_reviews_vocabulary_shrank(reviews: Finished) -> None:
    step = next(step for step in reviews.summary["compress"] if step["step"] == "vocabulary")
    assert step["after"]["vocabulary"] < step["before"]["vocabulary"] / 2
    assert reviews.model("exported")["bytes"] < reviews.model("compressed")["bytes"] < reviews.model("student")["bytes"]
    unchanged = next(check for check in reviews.summary["checks"] if check["name"].startswith("compressed"))
    assert unchanged["value"] >= 0.9  # rare tokens fall into pieces, all others answer as before


def test_reviews_bundle_answers_without_torch(reviews: Finished) -> None:
    texts = ("Fits perfectly, I love it.", "Fell apart in the wash. ¿Qué? 日本 🙂")
    answers = list(predict(reviews, *texts))
    assert [answer["input"] for answer in answers] == list(texts)
    for answer in answers:
        assert answer["label"] in ("negative", "positive")
        assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-4)


def test_reviews_bundle_answers_without_attar(reviews: Finished) -> None:
    page = (ROOT / "docs" / "how-to" / "serve-a-bundle.md").read_text(encoding="utf-8")
    code = page.partition("<!-- alone -->\n```python\n")[2].partition("```")[0]
    text = "Fits perfectly, I love it."
    done = subprocess.run(
        [sys.executable, "-c", code, str(reviews.folder / "bundle"), text], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == next(predict(reviews, text))["label"]


def test_reviews_bundle_serves_over_http(reviews: Finished) -> None:
    import socket
    import time
    import urllib.request

    page = (ROOT / "docs" / "how-to" / "serve-a-bundle.md").read_text(encoding="utf-8")
    code = page.partition("<!-- serve -->\n```python\n")[2].partition("```")[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", code, str(reviews.folder), str(port)]
    with subprocess.Popen(command, env=reviews.environment, stderr=subprocess.DEVNULL) as server:
        try:
            body = json.dumps(["Fits perfectly, I love it."]).encode()
            for _ in range(100):
                try:
                    said = urllib.request.urlopen(f"http://127.0.0.1:{port}", body, timeout=10).read()
                    break
                except OSError:
                    time.sleep(0.2)
            assert json.loads(said)[0]["label"] == next(predict(reviews, "Fits perfectly, I love it."))["label"]
        finally:
            server.kill()


def predict(run: Finished, *inputs: str) -> Iterator[dict[str, Any]]:
    """Yield the bundle's answers, given by a process in which torch cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "predict", str(run.folder), *inputs]
    done = subprocess.run(command, env=run.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    yield from (json.loads(line) for line in done.stdout.splitlines())
