"""Let a model behind an OpenAI-compatible server answer requests; every paid answer is kept in a ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attar.core.prompt import TextPrompt
from attar.errors import AttarError
from attar.seeds import derive
from attar.store.ledger import Ledger
from attar.store.spending import Cost
from attar.teachers.endpoint_http import Request
from attar.teachers.endpoint_pool import ask_all
from attar.teachers.endpoint_replies import Reply
from attar.teachers.endpoint_requests import RequestMaker
from attar.teachers.endpoint_settings import EndpointSettings


class EndpointWriter:
    """Answer requests with the model behind an endpoint (`attar.core.prompting.Writer`).

    The same request with the same seed is paid once, in all runs of the ledger together. A request that comes twice
    in a call is answered twice, each time by chance of its own, where the temperature is above 0.

    Args:
        settings: where the model is, how it writes (``mode`` must be ``text``) and what may be spent.
        ledger: the ledger's file.

    Raises:
        AttarError: the mode gives no texts.
    """

    Settings = EndpointSettings

    def __init__(self, settings: EndpointSettings, ledger: Path) -> None:
        if settings.mode != "text":
            raise AttarError(f"A writer's endpoint must have mode: text, got {settings.mode}. Set mode: text.")
        self.settings = settings
        self.ledger = Ledger(ledger)
        self._prompt = TextPrompt("{text}", (), chat=settings.api != "completions", name="writer")

    @property
    def spent(self) -> Cost:
        """Return what was spent, all runs of the ledger together; lost calls count at their worst case."""
        return self.ledger.total

    def write(self, requests: Sequence[str], seed: int) -> list[str]:
        """Return one answer for each request, without white space around it.

        Args:
            requests: what is asked.
            seed: of the sampling, where the temperature is above 0.

        Raises:
            AttarError: a request is too long, the server refuses or fails for good, or a cap is reached.
        """
        asked = self._asked(requests, seed)
        left = {one.key: one for one in asked}
        with self.ledger.held():
            open_ones = [request for key, request in left.items() if key not in self.ledger]
            if open_ones:
                ask_all(open_ones, self.settings, self.ledger, len(left), seed)
        return [Reply.from_json(self.ledger.answer(one.key)).text.strip() for one in asked]

    def _asked(self, requests: Sequence[str], seed: int) -> list[Request]:
        seen: Counter[str] = Counter()
        asked = []
        for request in requests:
            if len(request) > self.settings.max_characters:  # its end, which says what is wanted, would be lost
                raise AttarError(
                    f"A request to the writer has {len(request)} characters, more than max_characters "
                    f"({self.settings.max_characters}). Raise max_characters, or show fewer or shorter examples."
                )
            maker = RequestMaker(self.settings, self._prompt, derive(seed, "writer", seen[request]))
            asked.append(maker.requests(request)[0])
            seen[request] += 1
        return asked
