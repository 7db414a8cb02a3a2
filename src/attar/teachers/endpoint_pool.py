"""Send many requests at once, and stop all of them where one fails for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from attar.errors import AttarError
from attar.log import progress
from attar.store.ledger import Ledger
from attar.store.spending import CapReached, Cost
from attar.teachers.endpoint_client import EndpointClient, Stopped
from attar.teachers.endpoint_http import Request
from attar.teachers.endpoint_settings import EndpointSettings

CAP_NAMES = {"calls": "max_calls", "tokens": "max_tokens_total", "dollars": "max_dollars"}


def ask_all(
    requests: Sequence[Request], settings: EndpointSettings, ledger: Ledger, total: int, seed: int = 0
) -> Counter[str]:
    """Ask until every request's answer is in the ledger.

    Args:
        requests: those without an answer.
        settings: of the endpoint.
        ledger: takes the answers; it must be held.
        total: requests in all, those with an answer among them, for the progress bar.
        seed: of the waits between tries.

    Returns:
        What went wrong and was mended by another try: a few words -> how often.

    Raises:
        AttarError: a request failed for good or a cap is reached; answers that were on their way are kept.
    """
    client = EndpointClient(settings, ledger, seed)
    futures: list[Future[None]] = []
    try:
        bars = progress("asking the teacher", total, total - len(requests))
        with bars as bar, ThreadPoolExecutor(settings.concurrency) as pool:
            futures += [pool.submit(client.ask, request) for request in requests]
            try:
                for done in as_completed(futures):
                    done.result()
                    bar.advance(1, f"{ledger.total.dollars:.4f} dollars")
            except BaseException:
                _stop(client, futures)
                raise
    except (CapReached, Stopped):
        raise _explained(futures, requests, settings, ledger) from None
    finally:
        client.close()
    return client.troubles


def _stop(client: EndpointClient, futures: Sequence[Future[None]]) -> None:
    client.stop()
    for future in futures:
        future.cancel()


def _explained(
    futures: Sequence[Future[None]], requests: Sequence[Request], settings: EndpointSettings, ledger: Ledger
) -> AttarError:
    """Return why asking ended: a failure goes before a cap."""
    errors = [future.exception() for future in futures if not future.cancelled()]
    failure = next((error for error in errors if isinstance(error, AttarError)), None)
    cap = next((error.name for error in errors if isinstance(error, CapReached)), None)
    if failure is not None or cap is None:
        return failure or AttarError("Asking was stopped. Run again: it goes on from there.")
    left = sum(request.key not in ledger for request in requests)
    return AttarError(cap_message(cap, settings, ledger.total, ledger.unsure, left))


def cap_message(cap: str, settings: EndpointSettings, total: Cost, unsure: Cost, left: int) -> str:
    """Return what a user reads when a cap is reached.

    Args:
        cap: ``calls``, ``tokens`` or ``dollars``.
        settings: hold the caps.
        total: all that counts against them.
        unsure: the part of calls that perhaps were billed.
        left: requests without an answer.
    """
    name = CAP_NAMES[cap]
    lost = f" ({unsure.calls} of the calls got no answer and count at their worst case)" if unsure.calls else ""
    return (
        f"The cap {name}: {getattr(settings, name):g} is reached: the next call might pass it. Spent are {total.calls} "
        f"calls, {total.tokens} tokens and {total.dollars:.6f} dollars{lost}; {left} requests are left. Raise {name} "
        "and run again: it goes on from there, and no answered request is paid twice."
    )
