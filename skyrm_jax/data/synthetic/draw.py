"""Seeded draws that give the same data on every machine and Python version.

Only `random.Random.random` with a text seed is promised to stay the same from one Python to the next, so the choices
below are built on it alone.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A stream of random choices fixed by `seed` (any text)."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def chance(self, share: float) -> bool:
        """True in `share` (0..1) of all draws."""
        return self._random() < share

    def number(self, low: int, high: int) -> int:
        """A whole number in low..high, both included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, all equally likely. Raises IndexError when there are none."""
        return items[int(self._random() * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` of `items` in random order, none twice. Raises ValueError when there are fewer."""
        if count > len(items):
            raise ValueError(f"cannot draw {count} of {len(items)} items")
        pool = list(items)
        for k in range(count):
            j = self.number(k, len(pool) - 1)
            pool[k], pool[j] = pool[j], pool[k]
        return pool[:count]
