"""Mark points that another point beats in everything."""

from __future__ import annotations

from collections.abc import Mapping


def dominated(points: Mapping[str, tuple[float, float, float]]) -> dict[str, list[str]]:
    """Return for each point the others that are no worse in quality, bytes and milliseconds, and better in one.

    Args:
        points: name -> (quality, higher is better; bytes; milliseconds).

    Example:
        >>> dominated({"a": (0.9, 10, 5.0), "b": (0.8, 12, 5.0), "c": (0.8, 9, 9.0)})
        {'a': [], 'b': ['a'], 'c': []}
    """

    def beats(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
        """Tell whether one point is at least as good in all three and not the same."""
        mine, theirs = (-one[0], *one[1:]), (-other[0], *other[1:])
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))

    return {
        name: [other for other, place in points.items() if other != name and beats(place, own)]
        for name, own in points.items()
    }
