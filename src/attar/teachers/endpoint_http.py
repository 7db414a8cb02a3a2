"""Send one call over HTTP, and say what went wrong if no answer came back."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attar.errors import AttarError
from attar.optional import lazy
from attar.store.ledger import Outcome
from attar.store.spending import Cost
from attar.teachers.endpoint_settings import DEFAULT_KEY, EndpointSettings

if TYPE_CHECKING:
    import httpx2
else:
    httpx2 = lazy("httpx2")

LARGEST_BODY = 64 << 20
"""Bytes of an answer that are read; a longer one is no answer."""
RETRIED = frozenset({408, 409, 425, 429})
PERHAPS_BILLED = frozenset({408, 502, 504})
"""A gateway gave up; the server behind it may have answered. So do the 52x of content networks."""
NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")
GOES_ON = "Run again: it goes on from there, and no answered request is paid twice."


class Trouble(Exception):  # noqa: N818 (most troubles are mended by another try)
    """Report a call without a usable answer.

    Args:
        outcome: if it was billed.
        why: a few words, for the ledger.
        wait: seconds that the server asks to wait.
        fatal: message to the user, where another try is useless.
        usage: tokens read and written, where the server counted them.
    """

    def __init__(
        self,
        outcome: Outcome,
        why: str,
        *,
        wait: float = 0.0,
        fatal: str | None = None,
        usage: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(why)
        self.outcome: Outcome = outcome
        self.why = why
        self.wait = wait
        self.fatal = fatal
        self.usage = usage


@dataclass(frozen=True)
class Request:
    """Hold one request.

    Args:
        key: of its content.
        path: ``chat/completions`` or ``completions``.
        body: what is sent.
        worst: what one call can cost at most.
    """

    key: str
    path: str
    body: Mapping[str, Any]
    worst: Cost


class Wire:
    """Hold the connections to one server, and the key that it asks for.

    Args:
        settings: where and how.

    Raises:
        AttarError: the key would be sent where it does not belong, or cannot be sent.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self._key = _key(settings)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=settings.concurrency)
        self._http = httpx2.Client(timeout=settings.timeout, limits=limits, headers=headers)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def post(self, request: Request, name: str) -> bytes:
        """Return the body of a 200.

        Args:
            request: what is asked.
            name: equal for tries of which one may be billed; servers that know ``Idempotency-Key`` bill them once.

        Raises:
            Trouble: anything else came, or nothing.
        """
        try:
            status, headers, body = self._exchange(request, name)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise Trouble("free", "no connection") from error
        except httpx2.TimeoutException as error:
            raise Trouble("lost", "time-out") from error
        except httpx2.DecodingError as error:
            raise Trouble("spoiled", "damaged body") from error
        except httpx2.TransportError as error:
            raise Trouble("lost", "cut connection") from error
        if self._key:  # a server may repeat it
            body = body.replace(self._key.encode(), b"[key]")
        if status != 200:
            raise self._refused(status, headers, body)
        return body

    def _exchange(self, request: Request, name: str) -> tuple[int, Mapping[str, str], bytes]:
        """Send the request and return status, headers and body."""
        end = time.monotonic() + self.settings.timeout
        address, body = f"{self.settings.base_url}/{request.path}", dict(request.body)
        raw = bytearray()
        with self._http.stream("POST", address, json=body, headers={"Idempotency-Key": name}) as response:
            for chunk in response.iter_bytes():
                raw += chunk
                if time.monotonic() > end:  # the client's own limit is between two bytes
                    raise Trouble("lost", "time-out")
                if len(raw) > LARGEST_BODY:
                    raise Trouble("spoiled", "endless body")
        return response.status_code, response.headers, bytes(raw)

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> Trouble:
        """Return what a status other than 200 means: to be retried, or in vain."""
        text = body.decode("utf-8", "replace")
        server = where(self.settings)
        if status == 429 and any(code in text for code in NO_CREDIT):
            return Trouble("free", "no credit", fatal=f"{server} says that the account has no credit. {GOES_ON}")
        if status in RETRIED or status >= 500:
            outcome: Outcome = "lost" if status in PERHAPS_BILLED or status >= 520 else "free"
            return Trouble(outcome, f"status {status}", wait=retry_after(headers))
        if status in (401, 403):
            variable = self.settings.key_env
            named = f"the key in {variable}" if self._key else "a call without a key"
            rule = f"Set {variable or 'key_env and its variable'} to a valid key, then run again."
            return Trouble("free", f"status {status}", fatal=f"{server} answered {status}: it refuses {named}. {rule}")
        said = " ".join(text.split())[:300] or "nothing"
        fatal = f"{server} answered {status}. It says: {said}. Correct base_url, model or prompt."
        return Trouble("free", f"status {status}", fatal=fatal)


def _key(settings: EndpointSettings) -> str:
    """Return the key, or an empty string where there is none.

    Raises:
        AttarError: the default key would go over a network unencrypted.
    """
    key = os.environ.get(settings.key_env, "").strip() if settings.key_env else ""
    address = urlsplit(settings.base_url)
    own = address.hostname in ("127.0.0.1", "::1", "localhost")
    if key and address.scheme == "http" and not own and settings.key_env == DEFAULT_KEY:
        raise AttarError(
            f"{settings.base_url} is not encrypted, and {DEFAULT_KEY} would be sent to it. Use https, or set key_env "
            "to the variable of that server's own key, or to null."
        )
    if not key.isascii() or not key.isprintable():
        raise AttarError(f"The key in {settings.key_env} holds characters that no key has. Set it anew.")
    return key


def where(settings: EndpointSettings) -> str:
    """Return the server as the subject of a sentence."""
    return f"The server at {settings.base_url}"


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait: ``Retry-After`` as a number or a date; 0 if it does not ask.

    Example:
        >>> retry_after({"retry-after": "2"}), retry_after({"retry-after-ms": "250"}), retry_after({})
        (2.0, 0.25, 0.0)
    """
    precise, plain = headers.get("retry-after-ms"), headers.get("retry-after", "")
    try:
        return max(0.0, float(plain) if precise is None else float(precise) / 1000)
    except ValueError:
        pass  # a date, or nothing
    try:
        date = parsedate_to_datetime(plain)
    except ValueError:
        return 0.0
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
