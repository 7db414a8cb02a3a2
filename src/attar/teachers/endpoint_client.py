"""Ask an OpenAI-compatible server until it answers, with every call in the ledger."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from fnmatch import fnmatchcase

from attar.errors import AttarError
from attar.seeds import derive
from attar.store.ledger import Ledger
from attar.store.spending import Cost
from attar.teachers.endpoint_http import GOES_ON, Request, Trouble, Wire, where
from attar.teachers.endpoint_replies import Reply, read_reply
from attar.teachers.endpoint_settings import EndpointSettings

SPOILED_RETRIES = 2
"""Further tries after answers that cannot be used: each of them was paid."""


class Stopped(Exception):  # noqa: N818 (another call has failed for good)
    """Report that a call was not sent, because another has failed for good."""


class EndpointClient:
    """Send requests to one server, from several threads.

    Args:
        settings: where and how.
        ledger: takes every call and every answer; it must be held.
        seed: of the jitter between tries.

    Raises:
        AttarError: the key would be sent where it does not belong.
    """

    def __init__(self, settings: EndpointSettings, ledger: Ledger, seed: int = 0) -> None:
        self.settings = settings
        self.ledger = ledger
        self.seed = seed
        self.troubles: Counter[str] = Counter()
        self._stop = threading.Event()
        self._pause_until = 0.0
        self._wire = Wire(settings)

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def stop(self) -> None:
        """Send nothing more; calls on their way are awaited and kept."""
        self._stop.set()

    def ask(self, request: Request) -> None:
        """Send one request until its answer is in the ledger.

        Raises:
            AttarError: another try is useless, or there were too many.
            CapReached: the next try might pass a cap.
            Stopped: `stop` was called before the answer came.
        """
        spoiled = 0
        for attempt in range(self.settings.retries + 1):
            self._sleep(max(0.0, self._pause_until - time.monotonic()))
            try:
                self._once(request, spoiled)
                return
            except Trouble as trouble:
                self.troubles[trouble.why] += 1
                spoiled += trouble.outcome == "spoiled"
                last = attempt == self.settings.retries or spoiled > SPOILED_RETRIES
                if trouble.fatal is not None or last:
                    self.stop()  # at once: other threads would pay for more of the same
                    raise AttarError(trouble.fatal or self._gave_up(trouble, attempt + 1)) from trouble
                self._wait(trouble, request.key, attempt)

    def _once(self, request: Request, spoiled: int) -> None:
        """Send one call; whatever happens, the ledger learns how it ended."""
        name = f"{request.key}-{spoiled}"  # a server that keeps answers by name must not give a spoiled one again
        ticket = self.ledger.send(request.key, request.worst, self.settings.caps)
        if self._stop.is_set():  # while this call waited for room under a cap
            self.ledger.failed(ticket, "free", Cost(), "stopped")
            raise Stopped
        try:
            reply = self._usable(self._wire.post(request, name))
        except Trouble as trouble:
            self.ledger.failed(ticket, trouble.outcome, self._bill(trouble, request.worst), trouble.why)
            raise
        except BaseException as error:
            self.ledger.failed(ticket, "lost", request.worst, type(error).__name__)
            raise
        cost = request.worst if reply.usage is None else self.settings.cost(*reply.usage)
        self.ledger.answered(ticket, cost, reply.to_json())

    def _bill(self, trouble: Trouble, worst: Cost) -> Cost:
        if trouble.outcome == "free":
            return Cost()
        return worst if trouble.usage is None else self.settings.cost(*trouble.usage)

    def _usable(self, raw: bytes) -> Reply:
        """Return the reply if it is of the right model and holds what the mode needs."""
        try:
            reply = read_reply(raw)
        except ValueError as error:
            raise Trouble("spoiled", "wrong JSON") from error
        if reply.model is not None and not self._accepted(reply.model):
            fatal = (
                f"{where(self.settings)} was asked for the model '{self.settings.model}' and answered as "
                f"'{reply.model}'. Name that model, or set accept_model to a pattern that fits it."
            )
            raise Trouble("spoiled", "wrong model", fatal=fatal, usage=reply.usage)
        if self.needs_tokens and reply.tokens is None:
            raise Trouble("spoiled", "no log-probabilities", usage=reply.usage)
        return reply

    def _accepted(self, model: str) -> bool:
        pattern = self.settings.accept_model
        return model == self.settings.model or (pattern is not None and fnmatchcase(model, pattern))

    @property
    def needs_tokens(self) -> bool:
        """Tell whether an answer without log-probabilities is of no use."""
        return self.settings.mode == "tokens" or (self.settings.mode == "labels" and not self.settings.votes)

    def _gave_up(self, trouble: Trouble, tries: int) -> str:
        server = where(self.settings)
        if trouble.why == "no log-probabilities":
            return (
                f"{server} gives no log-probabilities for '{self.settings.model}' ({tries} tries). Turn them on "
                "(llama.cpp's Python server: --logits_all true), or use votes: 9 with temperature: 1, or mode: text."
            )
        return f"{server} gave no usable answer in {tries} tries; the last ended with: {trouble.why}. {GOES_ON}"

    def _wait(self, trouble: Trouble, key: str, attempt: int) -> None:
        """Wait before the next try; a server that asks for a pause gets it from all threads."""
        if trouble.wait > self.settings.longest_wait:
            raise AttarError(
                f"{where(self.settings)} asks to wait {trouble.wait:.0f} s, longer than longest_wait "
                f"({self.settings.longest_wait:.0f} s). Wait and run again. {GOES_ON}"
            )
        if trouble.wait:
            self._pause_until = max(self._pause_until, time.monotonic() + trouble.wait)
        draw = random.Random(derive(self.seed, "backoff", key, attempt)).uniform(0.5, 1.0)  # noqa: S311 (no secret)
        self._sleep(max(trouble.wait, min(self.settings.backoff * 2.0**attempt, self.settings.longest_wait) * draw))

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped
