"""Serve an OpenAI-compatible endpoint on 127.0.0.1 that fails on purpose and counts what it would bill."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "fake-1"
KEY = "sk-test-0123456789abcdef"
WORDS = ("negative", "positive")
MENDED = ("429", "500", "timeout", "cut", "wrong_json", "no_logprobs", "duplicate", "slow")
"""Faults that a client must get over; each label must come."""
FATAL = ("wrong_model", "expired_key")
"""Faults that a client must report at once."""
BILLED = frozenset({"", "cut", "wrong_json", "no_logprobs", "duplicate", "slow", "wrong_model"})
USAGE = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}


def share(text: str) -> float:
    """Return the probability of the second label, between 0.1 and 0.9: a function of what the model reads."""
    return 0.1 + 0.8 * int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def top_of(text: str) -> list[tuple[str, float]]:
    """Return the first token's choices: 90 % of the mass on the label words, in several spellings."""
    positive = share(text)
    spread = {" positive": 0.6 * positive, "Positive": 0.3 * positive, " negative": 0.9 * (1 - positive), " the": 0.06}
    return sorted(((token, math.log(p)) for token, p in spread.items()), key=lambda pair: -pair[1])


class FakeEndpoint(ThreadingHTTPServer):
    """Answer chat/completions and completions.

    Args:
        faults: what happens to the first calls of each request, in order; after them all goes well.
        always: what happens to every call, or "".
        latency: seconds an answer takes.
        late: seconds by which an answer that comes late is late.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, faults: Sequence[str] = (), always: str = "", latency: float = 0.0, late: float = 0.6) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults, self.always, self.latency, self.late = tuple(faults), always, latency, late
        self.guard = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.billed: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.named: dict[str, str] = {}  # the client's key of a request -> its key here
        self.names: defaultdict[str, list[str]] = defaultdict(list)
        self.bodies: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.headers_of_429: Mapping[str, str] = {}
        self.counts_tokens = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def fault(self, key: str) -> str:
        """Return what happens to this call, and count it."""
        with self.guard:
            count = self.seen[key]
            self.seen[key] += 1
            fault = self.always or (self.faults[count] if count < len(self.faults) else "")
            self.billed[key] += fault in BILLED
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeEndpoint

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        key = hashlib.sha256(self.path.encode() + raw).hexdigest()
        with self.server.guard:
            self.server.keys.add(self.headers.get("Authorization", ""))
            self.server.named[self.headers.get("Idempotency-Key", "").rpartition("-")[0]] = key
            self.server.names[key].append(self.headers.get("Idempotency-Key", ""))
            self.server.bodies.append(json.loads(raw))
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self._answer(key, json.loads(raw), self.server.fault(key))
        finally:
            with self.server.guard:
                self.server.at_once -= 1

    def _answer(self, key: str, body: dict[str, Any], fault: str) -> None:
        if fault in ("429", "500", "503", "504"):
            extra = dict(self.server.headers_of_429) if fault == "429" else {}
            return self._send(int(fault), b'{"error": {"message": "not now"}}', extra)
        if fault == "expired_key":
            said = {"error": {"message": f"Incorrect API key provided: {self.headers.get('Authorization')}"}}
            return self._send(401, json.dumps(said).encode())
        if fault in ("400", "404"):
            said = {"error": {"message": f"no such thing; you sent {self.headers.get('Authorization')}"}}
            return self._send(int(fault), json.dumps(said).encode())
        if fault == "no_credit":
            return self._send(429, b'{"error": {"code": "insufficient_quota"}}')
        time.sleep(self.server.latency + (self.server.late if fault in ("timeout", "duplicate") else 0.0))
        if fault == "timeout":
            self.close_connection = True  # never answers, bills nothing
            return None
        if fault == "slow":
            time.sleep(0.15)
        if fault == "wrong_json":
            return self._send(200, b'{"choices": [{"mess')
        answer = json.dumps(self.reply(body, fault)).encode()
        if fault == "cut":
            return self._cut(answer)
        self._send(200, answer)
        with self.server.guard:
            self.server.received[key] += fault in ("", "slow")  # a late answer reaches nobody, others are of no use
        return None

    def reply(self, body: dict[str, Any], fault: str) -> dict[str, Any]:
        """Return the answer to a request."""
        chat = "messages" in body
        read = body["messages"][-1]["content"] if chat else body["prompt"]
        count = body.get("max_tokens", body.get("max_completion_tokens"))
        top = top_of(read)[: body.get("top_logprobs", 20) if chat else body.get("logprobs", 20)]
        tokens = [top[0][0]] + [f" w{i}" for i in range(1, min(count, 4))]
        if body["temperature"]:  # a vote: the share of the seeds that say positive is the probability
            tokens = [WORDS[(body["seed"] % 1000) / 1000 < share(read)]]
        wants = body.get("logprobs") and fault != "no_logprobs"
        tops = [top if i == 0 else [(token, -0.1), (" x", -3.0)] for i, token in enumerate(tokens)]
        usage = USAGE if self.server.counts_tokens else None
        text, model = "".join(tokens), "another-model" if fault == "wrong_model" else MODEL
        if chat:
            content = [
                {"token": t, "logprob": p[0][1], "top_logprobs": [{"token": a, "logprob": b} for a, b in p]}
                for t, p in zip(tokens, tops, strict=True)
            ]
            message = {"role": "assistant", "content": text}
            choice: dict[str, Any] = {"message": message, "logprobs": {"content": content} if wants else None}
        else:
            logprobs = {
                "tokens": tokens,
                "token_logprobs": [p[0][1] for p in tops],
                "top_logprobs": list(map(dict, tops)),
            }
            choice = {"text": text, "logprobs": logprobs if wants else None}
        return {"model": model, "choices": [{**choice, "index": 0, "finish_reason": "length"}], "usage": usage}

    def _send(self, status: int, answer: bytes, extra: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(answer)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def _cut(self, answer: bytes) -> None:
        """Promise the whole answer, send half of it and hang up."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer[: len(answer) // 2])
        self.wfile.flush()
        self.close_connection = True


@contextmanager
def serving(**settings: Any) -> Iterator[FakeEndpoint]:
    """Serve while the block runs."""
    server = FakeEndpoint(**settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
