"""The largest micro-batch that fits a device, found by compiling."""

from collections.abc import Callable


def largest(needs: Callable[[int], int | None], usable: float, first: int = 1, most: int = 1024) -> int:
    """The largest n in 0..most for which `needs(n)`, bytes that rise with n, is at most `usable`.

    `needs` is expensive and None where the compiler gave up. Memory is nearly linear in n, so each try goes where the
    line through the last two that are known crosses `usable`, but halves the interval every sixth time.
    """
    known: dict[int, int] = {}
    low, high, tries = 0, most + 1, 0
    n = min(max(first, 1), most)
    while high - low > 1:
        found = needs(n)
        tries += 1
        if found is not None:
            known[n] = found
        if found is not None and found <= usable:
            low = n
        else:
            high = n
        n = _next(known, usable, low, high, tries)
    return low


def _next(known: dict[int, int], usable: float, low: int, high: int, tries: int) -> int:
    middle = (low + high) // 2
    points = sorted(known.items())[-2:]
    if len(points) < 2:
        return min(max(2 * low, low + 1), high - 1) if points and low else max(low + 1, middle)
    if tries % 6 == 0:
        return min(max(middle, low + 1), high - 1)
    (a, at_a), (b, at_b) = points
    slope = max((at_b - at_a) / (b - a), 1.0)
    return min(max(int(a + (usable - at_a) / slope), low + 1), high - 1)
