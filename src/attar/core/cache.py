"""Call the keys and values that a model keeps of tokens it has read by the name that the model uses."""

from __future__ import annotations

import inspect
from typing import Any

NAMES = ("cache", "past_key_values")
"""Names of the argument and of the output's field: the first since `transformers` 5.24, the second before."""


def cache_name(module: Any) -> str | None:
    """Return the name by which a module takes and gives its cache, or None where it takes none.

    Args:
        module: a module of `transformers`, or one with a ``forward`` of the same kind.

    Example:
        >>> class Reads:
        ...     def forward(self, input_ids, past_key_values=None): ...
        >>> cache_name(Reads())
        'past_key_values'
    """
    takes = inspect.signature(module.forward).parameters
    return next((name for name in NAMES if name in takes), None)


def with_cache(module: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with ``cache`` under the name that a module knows it by.

    Args:
        module: as in `cache_name`.
        arguments: of a call, by name.

    Example:
        >>> class Reads:
        ...     def forward(self, input_ids, past_key_values=None): ...
        >>> with_cache(Reads(), {"input_ids": 3, "cache": 4})
        {'input_ids': 3, 'past_key_values': 4}
    """
    return {str(cache_name(module)) if name == NAMES[0] else name: given for name, given in arguments.items()}
