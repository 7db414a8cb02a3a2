"""Ask a real HTTP server on 127.0.0.1 that fails on purpose."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.teachers.fake_endpoint import BILLED, FATAL, KEY, MENDED, MODEL, WORDS, FakeEndpoint, serving, share

from attar.core.examples import UNKNOWN, Examples
from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.seeds import content_key
from attar.store.ledger import Ledger
from attar.store.spending import Cost
from attar.teachers.endpoint import EndpointTeacher, Estimate
from attar.teachers.endpoint_client import EndpointClient, Stopped
from attar.teachers.endpoint_http import Request
from attar.teachers.endpoint_requests import RequestMaker

PROMPT = TextPrompt("Review: {text}\nSentiment:", WORDS)
CHAT = TextPrompt("Is it {options}? {text}", WORDS, chat=True, demonstrations=(("Tore.", 0),))
Make = Callable[..., EndpointTeacher]


def some(count: int, first: int = 0) -> Examples:
    texts = [f"text number {i}" for i in range(first, first + count)]
    return Examples(np.array([content_key(text.encode()) for text in texts]), texts, np.full(count, UNKNOWN))


def expected(examples: Examples, prompt: TextPrompt = PROMPT) -> Any:
    """Return the second label's probability of each example; 0.9 of the mass falls on the labels."""
    read = [prompt.messages(text)[-1]["content"] if prompt.chat else prompt.render(text) for text in examples.inputs]
    return pytest.approx([share(text) for text in read], abs=1e-6)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def teacher(server: FakeEndpoint, prompt: TextPrompt = PROMPT, **changes: Any) -> EndpointTeacher:
        plain = {"backoff": 0.001, "timeout": 5.0, "concurrency": 8}
        settings = EndpointTeacher.Settings(**{"base_url": server.url, "model": MODEL, **plain, **changes})
        return EndpointTeacher(settings, prompt, tmp_path / "ledger.jsonl")

    return teacher


def _probabilities(teacher: EndpointTeacher, examples: Examples) -> list[float]:
    rows = teacher.answer(examples)
    assert rows.key[:, 0].tolist() == examples.keys.tolist()
    return [float(p) for p in rows.dense().exp()[:, 1]]


@pytest.mark.parametrize("prompt", [PROMPT, CHAT], ids=["completions", "chat"])
def test_label_probabilities_come_in_one_call_a_text(make: Make, prompt: TextPrompt) -> None:
    with serving() as server:
        teacher = make(server, prompt)
        examples = some(5)
        assert _probabilities(teacher, examples) == expected(examples, prompt)
        assert teacher.gives == {"logits", "hard"}
        assert server.billed.total() == 5
        assert all(body["temperature"] == 0 and body["max_tokens"] == 1 for body in server.bodies)
    facts = teacher.facts()
    assert (facts["calls"], facts["input_tokens"], facts["output_tokens"]) == (5, 100, 5)
    assert facts["no_label"] == facts["missing_labels"] == 0


@pytest.mark.parametrize("fault", MENDED)
def test_every_label_comes_whatever_fails_on_the_way(make: Make, fault: str) -> None:
    with serving(faults=(fault,), late=0.25) as server:
        teacher = make(server, timeout=0.2 if fault in ("timeout", "duplicate") else 5)
        examples = some(6)
        assert _probabilities(teacher, examples) == expected(examples)
        billed = server.billed.total()
    facts = teacher.facts()
    assert billed == 6 * (1 + (fault in BILLED and fault != "slow"))
    assert facts["calls"] + facts["unsure_calls"] >= billed  # what perhaps was billed is counted, too
    assert sum(count for name, count in facts.items() if name.startswith("trouble")) == 6 * (fault != "slow")


@pytest.mark.parametrize("fault", FATAL)
def test_what_no_retry_mends_is_said_at_once(make: Make, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    match = {"wrong_model": "answered as 'another-model'.*accept_model", "expired_key": "401.*key in OPENAI_API_KEY"}
    with serving(always=fault) as server:
        with pytest.raises(AttarError, match=match[fault]) as caught:
            make(server).answer(some(20))
        assert server.seen.total() <= 8  # those on their way, none again
        assert max(server.seen.values()) == 1
    assert KEY not in str(caught.value)


def test_an_answer_of_an_accepted_model_is_taken(make: Make) -> None:
    with serving(always="wrong_model") as server:
        examples = some(2)
        assert _probabilities(make(server, accept_model="another-*"), examples) == expected(examples)


@pytest.mark.parametrize("status", ["400", "404", "no_credit"])
def test_a_request_that_cannot_succeed_is_sent_once(make: Make, status: str) -> None:
    match = {"400": "answered 400. It says", "404": "answered 404", "no_credit": "no credit"}[status]
    with serving(always=status) as server:
        with pytest.raises(AttarError, match=match):
            make(server, concurrency=1).answer(some(3))
        assert server.seen.total() == 1


def test_answers_that_cannot_be_used_are_paid_three_times_at_most(make: Make) -> None:
    with serving(always="no_logprobs") as server:
        with pytest.raises(AttarError, match=r"no log-probabilities for 'fake-1' \(3 tries\).*votes: 9"):
            make(server, concurrency=1).answer(some(1))
        assert server.billed.total() == 3


def test_a_server_that_never_recovers_is_given_up(make: Make) -> None:
    with serving(always="500") as server:
        with pytest.raises(AttarError, match="no usable answer in 4 tries; the last ended with: status 500"):
            make(server, retries=3, concurrency=1).answer(some(2))
        assert server.seen.total() == 4


@pytest.mark.parametrize(("fault", "names"), [("cut", 1), ("no_logprobs", 2)])
def test_tries_share_a_name_unless_their_answer_was_of_no_use(make: Make, fault: str, names: int) -> None:
    with serving(faults=(fault,)) as server:
        make(server).answer(some(2))
        assert [(len(sent), len(set(sent))) for sent in server.names.values()] == [(2, names)] * 2


def test_waits_double_with_a_jitter_that_the_seed_fixes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(EndpointClient, "_sleep", lambda self, seconds: waits.append(seconds) if seconds else None)
    with serving(faults=("500",) * 8) as server:
        for _ in range(2):
            with pytest.raises(AttarError, match="5 tries"):
                make(server, concurrency=1, retries=4, backoff=2.0, longest_wait=10.0).answer(some(1))
            server.seen.clear()
    assert [most / 2 <= wait <= most for wait, most in zip(waits, [2.0, 4.0, 8.0, 10.0] * 2, strict=True)] == [True] * 8
    assert waits[:4] == waits[4:]


def test_no_server_is_a_users_error(make: Make) -> None:
    with serving() as server:
        teacher = make(server, retries=1)
    with pytest.raises(AttarError, match="ended with: no connection"):
        teacher.answer(some(1))
    assert teacher.ledger.total.calls == 0


def test_a_pause_that_the_server_asks_for_is_kept(make: Make) -> None:
    with serving(faults=("429",)) as server:
        server.headers_of_429 = {"Retry-After": "0.3"}
        begin = time.monotonic()
        make(server).answer(some(3))
        assert time.monotonic() - begin > 0.3
        server.headers_of_429 = {"Retry-After": "3600"}
        with pytest.raises(AttarError, match="asks to wait 3600 s, longer than longest_wait"):
            make(server).answer(some(1, first=9))


def test_a_pause_holds_for_every_call(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def fault(key: str) -> str:
        calls.append(time.monotonic())
        return "429" if len(calls) == 1 else ""

    with serving() as server:
        monkeypatch.setattr(server, "fault", fault)
        server.headers_of_429 = {"retry-after-ms": "300"}
        make(server, concurrency=2).answer(some(10))
    early = [at for at in calls if at < calls[0] + 0.25]
    assert len(calls) == 11
    assert len(early) <= 3  # the refused one, and what was on its way or began with it


def test_a_trickle_of_bytes_is_given_up_in_time(make: Make) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
                for _ in range(100):
                    try:
                        peer.sendall(b" ")
                    except OSError:
                        return
                    time.sleep(0.02)

        threading.Thread(target=trickle, daemon=True).start()
        server: Any = type("At", (), {"url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1"})
        begin = time.monotonic()
        with pytest.raises(AttarError, match="time-out"):
            make(server, timeout=0.2, retries=0).answer(some(1))
        assert time.monotonic() - begin < 1


def test_no_more_calls_are_on_their_way_than_asked_for(make: Make) -> None:
    with serving(latency=0.02) as server:
        make(server, concurrency=3).answer(some(12))
        assert server.most_at_once == 3


def test_an_answered_request_is_never_sent_again(make: Make) -> None:
    with serving() as server:
        first = _probabilities(make(server), some(4))
        again = make(server, retries=2, concurrency=2, max_calls=4)  # none of these changes what is asked
        assert _probabilities(again, some(4)) == first
        assert _probabilities(make(server, PROMPT.calibrated((0.0, 0.0))), some(4)) == pytest.approx(first, abs=1e-6)
        assert server.billed.total() == 4
        make(server, top_logprobs=5).answer(some(4))
        assert server.billed.total() == 8


def test_equal_texts_are_asked_once(make: Make) -> None:
    with serving() as server:
        same = Examples(np.array([1, 2]), ["same", "same"], np.array([UNKNOWN, UNKNOWN]))
        one, two = _probabilities(make(server), same)
        assert one == two
        assert server.billed.total() == 1


def test_no_examples_make_no_call(make: Make) -> None:
    with serving() as server:
        assert make(server).answer(some(0)).dense().shape == (0, 2)
        assert server.seen.total() == 0


@pytest.mark.parametrize(
    ("cap", "calls"),
    [({"max_calls": 7}, 7), ({"max_tokens_total": 500}, None), ({"max_dollars": 0.0004, "input_price": 1.0}, None)],
    ids=lambda value: str(value),
)
def test_a_cap_holds_and_a_higher_one_goes_on(make: Make, cap: dict[str, Any], calls: int | None) -> None:
    with serving(latency=0.005) as server:
        teacher = make(server, **cap)
        with pytest.raises(AttarError, match=f"The cap {next(iter(cap))}: .* is reached.*goes on from there") as caught:
            teacher.answer(some(30))
        paid = server.billed.total()
        assert paid == calls or calls is None
        assert 0 < paid < 30
        total = teacher.ledger.total
        assert total.tokens == 21 * paid <= cap.get("max_tokens_total", 10**9)
        assert total.dollars <= cap.get("max_dollars", 1)
        assert f"Spent are {paid} calls" in str(caught.value)
        assert f"{30 - paid} requests are left" in str(caught.value)
        higher = {name: value * 100 for name, value in cap.items()}
        assert _probabilities(make(server, **{**cap, **higher}), some(30)) == expected(some(30))
        assert server.billed.total() == 30


def test_refused_calls_do_not_count_against_the_cap_and_lost_ones_do(make: Make) -> None:
    with serving(faults=("429", "500")) as server:
        make(server, max_calls=3).answer(some(3))
    with serving(faults=("cut",)) as server, pytest.raises(AttarError, match="1 of the calls got no answer"):
        make(server, max_calls=4, concurrency=1).answer(some(1, first=50))


def test_a_call_that_waited_for_room_is_not_sent_after_a_stop(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    worst, stopped = Cost(1, 10, 1), threading.Event()
    with serving() as server, ledger.held():
        settings = EndpointTeacher.Settings(base_url=server.url, model=MODEL, max_calls=1)
        client = EndpointClient(settings, ledger)
        first = ledger.send("first", worst, settings.caps)

        def ask() -> None:
            with pytest.raises(Stopped):
                client.ask(Request("second", "completions", {"model": MODEL, "prompt": "x"}, worst))
            stopped.set()

        threading.Thread(target=ask, daemon=True).start()
        time.sleep(0.1)
        client.stop()
        ledger.failed(first, "free", Cost(), "status 429")
        assert stopped.wait(5)
        client.close()
        assert server.seen.total() == 0
    assert ledger.total == Ledger(tmp_path / "ledger.jsonl").total == Cost()


def test_another_seed_asks_again_only_where_it_is_drawn_from(tmp_path: Path) -> None:
    def keys(seed: int, **changes: Any) -> set[str]:
        settings = EndpointTeacher.Settings(base_url="http://127.0.0.1:8/v1", model=MODEL, **changes)
        return {request.key for request in RequestMaker(settings, PROMPT, seed).requests("x")}

    assert keys(1) == keys(2)
    assert keys(1, mode="text") == keys(2, mode="text")
    assert not keys(1, mode="text", temperature=0.5) & keys(2, mode="text", temperature=0.5)
    assert not keys(1, votes=3, temperature=0.5) & keys(2, votes=3, temperature=0.5)


def test_a_seed_is_sent_only_with_a_temperature_that_is_sent() -> None:
    plain = EndpointTeacher.Settings(base_url="http://127.0.0.1:8/v1", model=MODEL)
    (request,) = RequestMaker(plain.model_copy(update={"temperature": 0.7}), PROMPT, 1).requests("x")
    assert request.body["temperature"] == 0
    assert "seed" not in request.body


def test_what_a_server_does_not_count_is_taken_at_its_worst(make: Make) -> None:
    with serving(faults=("wrong_json",)) as server:
        server.counts_tokens = False
        teacher = make(server)
        teacher.answer(some(2))
    worst = sum((request.worst for request in teacher.requests(some(2)).values()), Cost())
    assert teacher.ledger.spent == worst + worst  # an answer that is no JSON tells no count either
    assert worst.input_tokens == sum(len(PROMPT.render(text)) for text in some(2).inputs) + 2 * (8 + 64)


@pytest.mark.parametrize(("status", "unsure"), [("500", 0), ("503", 0), ("504", 3)])
def test_a_gateway_that_gave_up_may_have_been_billed(make: Make, status: str, unsure: int) -> None:
    with serving(faults=(status,)) as server:
        teacher = make(server)
        teacher.answer(some(3))
    assert teacher.facts()["unsure_calls"] == unsure


def test_the_price_is_told_before_any_call(make: Make) -> None:
    with serving() as server:
        teacher = make(server, input_price=2.0, output_price=10.0)
        assert len(PROMPT.render("text number 0")) == 32  # so 8 tokens, and 8 more for a message
        assert teacher.estimate(some(3)) == Estimate(3, 3 * 16, 3, pytest.approx((48 * 2 + 3 * 10) / 1e6), 0)
        assert server.seen.total() == 0
        teacher.answer(some(2))
        assert teacher.estimate(some(3)).calls == 1
        assert teacher.estimate(some(3)).answered == 2
        counted = EndpointTeacher(teacher.settings, PROMPT, teacher.ledger.path, count_tokens=lambda text: 100)
        assert counted.estimate(some(3)).input_tokens == 108


def test_texts_are_generated(make: Make) -> None:
    with serving(faults=("no_logprobs",)) as server:  # a text needs none
        teacher = make(server, CHAT, mode="text", max_tokens=3)
        assert teacher.gives == {"text"}
        assert [text.split()[1:] for text in teacher.generate(some(2))] == [["w1", "w2"]] * 2
        assert server.billed.total() == 2
        assert teacher.facts()["cut_texts"] == 2
        for wrong in (teacher.answer, teacher.generate_tokens):
            with pytest.raises(ValueError, match="mode text"):
                wrong(some(2))
        assert teacher.estimate(some(1, first=9)).output_tokens == 3


@pytest.mark.parametrize("prompt", [PROMPT, CHAT], ids=["completions", "chat"])
def test_generated_tokens_come_with_their_choices(make: Make, prompt: TextPrompt) -> None:
    with serving() as server:
        teacher = make(server, prompt, mode="tokens", max_tokens=2, top_logprobs=2)
        assert teacher.gives == {"text", "top_logprobs"}
        (one,) = teacher.generate_tokens(some(1))
        assert "".join(token.token for token in one.tokens) == one.text
        assert one.tokens[1].top == ((" w1", -0.1), (" x", -3.0))
        assert len(one.tokens[0].top) == 2
        assert one.finish == "length"
        assert teacher.generate(some(1)) == [one.text]
        with pytest.raises(ValueError, match="mode labels gives no texts"):
            make(server, prompt).generate(some(1))


def test_votes_stand_in_for_log_probabilities(make: Make) -> None:
    with serving(always="no_logprobs") as server:
        examples = some(4)
        found = _probabilities(make(server, votes=60, temperature=1.0, concurrency=16), examples)
        assert server.billed.total() == 240
        shares = np.array([share(PROMPT.render(text)) for text in examples.inputs])
        assert np.abs(np.array(found) - shares).max() < 0.2  # three standard deviations of 60 votes
        assert len({body["seed"] for body in server.bodies}) == 60


def test_a_long_text_loses_its_end(make: Make) -> None:
    with serving() as server:
        long = Examples(np.array([1]), ["x" * 50], np.array([UNKNOWN]))
        make(server, max_characters=10).answer(long)
        assert server.bodies[0]["prompt"] == PROMPT.render("x" * 10)


def test_a_text_with_half_a_character_is_asked_all_the_same(make: Make) -> None:
    with serving() as server:
        make(server).answer(Examples(np.array([1]), ["half \ud83d 🙂"], np.array([UNKNOWN])))
        assert server.bodies[0]["prompt"] == PROMPT.render("half ? 🙂")


def test_running_text_can_be_asked_as_a_chat(make: Make) -> None:
    solved = TextPrompt("{text}\nSentiment:", WORDS, demonstrations=(("Tore.", 0),))
    with serving() as server:
        make(server, solved, api="chat").answer(some(1))
        roles = [(turn["role"], turn["content"]) for turn in server.bodies[0]["messages"]]
        assert roles[:2] == [("user", "Tore.\nSentiment:"), ("assistant", "negative")]
        with pytest.raises(AttarError, match="api is 'completions'"):
            make(server, CHAT, api="completions")


def test_further_keys_and_another_name_of_the_limit_are_sent(make: Make) -> None:
    with serving() as server:
        make(server, body={"user": "me"}, token_limit="max_completion_tokens").answer(some(1))
        assert server.bodies[0]["user"] == "me"
        assert server.bodies[0]["max_completion_tokens"] == 1
        assert "max_tokens" not in server.bodies[0]


def test_the_key_is_sent_and_written_nowhere(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving() as server:
        teacher = make(server, key_env="MY_KEY")
        teacher.answer(some(2))
        assert server.keys == {f"Bearer {KEY}"}
        server.always = "400"  # repeats the key in its message
        with pytest.raises(AttarError, match="you sent Bearer") as caught:
            teacher.answer(some(1, first=5))
    seen = [
        str(caught.value),
        repr(teacher.settings),
        teacher.fingerprint,
        json.dumps(teacher.facts()),
        *capfd.readouterr(),
    ]
    files = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert [text for text in [*seen, *files] if KEY in text] == []


def test_without_a_key_none_is_sent(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server:
        make(server, key_env=None).answer(some(1))
        assert server.keys == {""}


def test_the_default_key_is_not_sent_unencrypted_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings = EndpointTeacher.Settings(base_url="http://other.invalid/v1", model=MODEL)
    with pytest.raises(AttarError, match="is not encrypted, and OPENAI_API_KEY would be sent to it"):
        EndpointTeacher(settings, PROMPT, tmp_path / "ledger.jsonl").answer(some(1))


def test_the_fingerprint_changes_with_what_answers_and_with_nothing_else(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server:
        plain = make(server).fingerprint
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        same = [make(server), make(server, concurrency=1, timeout=9, max_calls=3), make(server, input_price=1)]
        other = [
            make(server, model="other"),
            make(server, CHAT),
            make(server, PROMPT.calibrated((0.0, -1.0))),
            make(server, top_logprobs=5),
            make(server, api="chat"),
            make(server, body={"user": "me"}),
            make(server, votes=3, temperature=1.0),
            make(server, mode="text"),
        ]
    assert {teacher.fingerprint for teacher in same} == {plain}
    assert len({plain, *(teacher.fingerprint for teacher in other)}) == 9


def test_the_page_on_endpoints_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "endpoint-teacher.md"
    code = page.read_text(encoding="utf-8").partition("<!-- endpoint -->\n```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENDPOINT_MODEL", MODEL)
    with serving() as server:
        monkeypatch.setenv("ENDPOINT", server.url)
        exec(code, {})
        assert server.billed.total() == 2
    estimate, rows = capsys.readouterr().out.split("\n")[:2]
    assert estimate.startswith("Estimate(calls=2, ")
    assert rows.startswith("tensor([[")


CHILD = """
import sys
from pathlib import Path
import numpy as np
from attar.core.examples import Examples
from attar.core.prompt import TextPrompt
from attar.teachers.endpoint import EndpointTeacher
url, model, ledger = sys.argv[1:]
texts = [f"text number {i}" for i in range(40)]
settings = EndpointTeacher.Settings(base_url=url, model=model, concurrency=4)
prompt = TextPrompt("Review: {text}\\nSentiment:", ("negative", "positive"))
EndpointTeacher(settings, prompt, Path(ledger)).prepare(Examples(np.arange(40), texts, np.full(40, -1)))
"""


def test_after_a_kill_no_answered_request_is_sent_again(make: Make, tmp_path: Path) -> None:
    with serving(latency=0.05) as server:
        command = [sys.executable, "-c", CHILD, server.url, MODEL, str(tmp_path / "ledger.jsonl")]
        with subprocess.Popen(command) as child:
            end = time.monotonic() + 20
            while sum(server.received.values()) < 10 and time.monotonic() < end:
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
        time.sleep(0.1)
        teacher = make(server)
        answered = {key for key in teacher.requests(some(40)) if key in teacher.ledger}
        open_calls = teacher.ledger.total.calls - len(answered)
        before = dict(server.billed)
        assert 6 <= len(answered) < 40
        assert _probabilities(teacher, some(40)) == expected(some(40))
        again = [key for key, count in server.billed.items() if count > 1]
        assert len(again) <= open_calls <= 4  # only those on their way when it was killed
        assert server.billed.total() - sum(before.values()) == 40 - len(answered)
