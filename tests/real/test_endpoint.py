"""A real server with a real model: llama.cpp's own, on the weights of the recipe `reviews`."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from attar.core.examples import UNKNOWN, Examples
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.teachers.endpoint import EndpointTeacher

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("negative", "positive")
PROMPTS = [
    TextPrompt("Review: {text}\nSentiment:", WORDS, name="plain"),
    TextPrompt("What is the sentiment of this review: {options}? Answer with one word.\n\n{text}", WORDS, chat=True),
]
TEXTS = [
    "Fits perfectly, I love it.",
    "Fell apart in the wash after a week.",
    "The color is nothing like the picture and the fabric scratches.",
    "Soft, warm and well made; I bought a second one.",
    "Too small, too thin, sent it back.",
    "It is fine for the price.",
    "Beautiful dress, but the zip broke on the first day.",
    "My favorite shirt this year!",
    "I wanted to love this top, it just looks cheap on me.",
    "Great length for tall women and very comfortable.",
    "The seams were open when it arrived.",
    "Gorgeous, gets compliments every time I wear it.",
]


def texts() -> Examples:
    return Examples(np.arange(len(TEXTS)), TEXTS, np.full(len(TEXTS), UNKNOWN))


@dataclass(frozen=True)
class Peer:
    """Hold a running server and the weights it serves."""

    url: str
    weights: Path
    process: subprocess.Popen[bytes]

    def teacher(self, prompt: TextPrompt, ledger: Path, **changes: Any) -> EndpointTeacher:
        settings = EndpointTeacher.Settings(**{"base_url": self.url, "model": "smollm2", "key_env": None, **changes})
        return EndpointTeacher(settings, prompt, ledger)


def _python() -> str | None:
    """Return an interpreter that has llama.cpp's server, or None."""
    return sys.executable if importlib.util.find_spec("llama_cpp") else os.environ.get("ATTAR_LLAMA_PYTHON")


def _weights(cache: Path) -> Path:
    """Return the weights of `reviews`; ATTAR_LLAMA_GGUF names them where they are at hand."""
    from attar.sources import reference

    if given := os.environ.get("ATTAR_LLAMA_GGUF"):
        return Path(given)
    recipe = yaml.safe_load((ROOT / "src" / "attar" / "recipes" / "reviews.yaml").read_text(encoding="utf-8"))
    teacher = recipe["teacher"]
    return reference.fetch(reference.parse(teacher["model"], cache), teacher["sha256"], cache)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    python = _python()
    if python is None:
        pytest.skip("needs llama-cpp-python[server], here or in the interpreter that ATTAR_LLAMA_PYTHON names")
    weights = _weights(tmp_path_factory.mktemp("cache"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "llama_cpp.server", "--model", str(weights), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--n_ctx", "1024", "--logits_all", "true"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}/v1"
            _wait(url, process)
            yield Peer(url, weights, process)
        finally:
            process.kill()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"llama.cpp's server did not start (exit status {process.poll()})")


@pytest.fixture(scope="module")
def scorer(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return attar's own scorer on the same weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from attar.prompts.scoring.label_words import LabelWordScorer
    from attar.sources.gguf_file import as_folder

    folder = tmp_path_factory.mktemp("weights") / "folder"
    as_folder(peer.weights, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return LabelWordScorer(model, AutoTokenizer.from_pretrained(folder))


def offline(scorer: Any, prompt: TextPrompt) -> np.ndarray:
    """Return the label probabilities ``(texts, labels)`` that attar reads itself, words counted in both cases."""
    words = [spelled for word in WORDS for spelled in (word, word.capitalize())]
    logits = scorer.score(prompt, TEXTS, words).reshape(len(TEXTS), len(WORDS), 2).astype(np.float64)
    mass = np.exp(logits - logits.max(axis=(1, 2), keepdims=True)).sum(axis=2)
    return np.asarray(mass / mass.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("prompt", PROMPTS, ids=["completions", "chat"])
def test_label_probabilities_agree_with_the_model_read_here(
    peer: Peer, scorer: Any, prompt: TextPrompt, tmp_path: Path
) -> None:
    teacher = peer.teacher(prompt, tmp_path / "ledger.jsonl")
    served = teacher.answer(texts()).dense().exp().numpy()
    here = offline(scorer, prompt)
    apart = np.abs(served - here).max(axis=1)
    print(f"\nlargest difference {apart.max():.3f}, mean {apart.mean():.3f}; {teacher.facts()}")
    print(np.round(np.stack([served[:, 1], here[:, 1]], axis=1), 3).tolist())
    assert teacher.facts()["calls"] == len(TEXTS)
    assert apart.mean() < 0.03  # llama.cpp rounds activations to 8 bits, transformers the weights to bfloat16
    assert apart.max() < 0.1


def test_what_was_paid_is_answered_without_the_server(peer: Peer, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    said = peer.teacher(PROMPTS[0], ledger, max_calls=len(TEXTS)).answer(texts()).dense()
    again = peer.teacher(PROMPTS[0], ledger, max_calls=len(TEXTS))
    assert again.estimate(texts()).calls == 0
    assert again.answer(texts()).dense().equal(said)
    assert again.ledger.total.calls == len(TEXTS)


def test_the_estimate_is_near_what_is_paid(peer: Peer, tmp_path: Path) -> None:
    teacher = peer.teacher(PROMPTS[1], tmp_path / "ledger.jsonl", input_price=1.0)
    told = teacher.estimate(texts())
    teacher.prepare(texts())
    print(f"\ntold {told}, paid {teacher.ledger.spent}")
    assert told.calls == teacher.ledger.spent.calls
    assert told.output_tokens == teacher.ledger.spent.output_tokens
    assert 0.5 < told.input_tokens / teacher.ledger.spent.input_tokens < 2


@pytest.mark.parametrize("prompt", PROMPTS, ids=["completions", "chat"])
def test_generated_tokens_make_the_text_and_lead_their_choices(peer: Peer, prompt: TextPrompt, tmp_path: Path) -> None:
    plain = {"repeat_penalty": 1.0}  # this server's default takes other tokens than the likeliest
    asked = {"mode": "tokens", "max_tokens": 6, "top_logprobs": 5, "body": plain}
    teacher = peer.teacher(prompt, tmp_path / "ledger.jsonl", **asked)
    for one in teacher.generate_tokens(texts().take(np.arange(3))):
        assert one.text
        assert "".join(token.token for token in one.tokens).strip() == one.text.strip()
        for token in one.tokens:
            assert len(token.top) >= 5
            assert token.top[0][1] == pytest.approx(token.logprob, abs=1e-4)  # temperature 0 takes the likeliest


def test_votes_are_sampled_and_counted(peer: Peer, tmp_path: Path) -> None:
    teacher = peer.teacher(PROMPTS[1], tmp_path / "ledger.jsonl", votes=3, temperature=1.0)
    rows = teacher.answer(texts().take(np.arange(4))).dense().exp()
    assert rows.sum(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    assert teacher.ledger.spent.calls == 12


def test_a_dead_server_is_a_users_error(peer: Peer, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        teacher = peer.teacher(PROMPTS[0], tmp_path / "ledger.jsonl", base_url=url, retries=1, backoff=0.0)
        with pytest.raises(AttarError, match="no connection"):
            teacher.answer(texts())
