"""Which words two texts do not share, in bounded time."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Any

from markupsafe import Markup, escape

from skyrm_jax.annotate.rendering import visible

MOST = 100_000
"""Characters of each side that are compared."""
STEPS = 5_000_000
"""Of the search for what is shared, about a second's worth; what remains then counts as different."""

_TOKEN = re.compile(r"(\w+|[^\w\s])(\s*)")


@dataclass(frozen=True, slots=True)
class Difference:
    """Two sides with the words marked that only one of them has.

    Attributes:
        left, right: HTML of each text of a side, safe.
        shared: of all words, how many both have; 0 to 1.
        whole: everything was compared as finely as can be.
    """

    left: tuple[Markup, ...]
    right: tuple[Markup, ...]
    shared: float
    whole: bool


def difference(left: Sequence[str], right: Sequence[str], steps: int = STEPS) -> Difference:
    """Compares words and marks, not the spaces between them; each side is a text, or several, one after the other."""
    sides = [[visible(text) for text in beginnings(texts)] for texts in (left, right)]
    one, two = ([[(m[1], m[2]) for m in _TOKEN.finditer(text)] for text in texts] for texts in sides)
    words = [[word for tokens in side for word, _ in tokens] for side in (one, two)]
    blocks, finished = _shared(words[0], words[1], steps)
    count = sum(size for _, _, size in blocks)
    return Difference(
        _marked(sides[0], one, [(i, size) for i, _, size in blocks]),
        _marked(sides[1], two, [(j, size) for _, j, size in blocks]),
        2 * count / (len(words[0]) + len(words[1])) if any(words) else 1.0,
        finished and all(sum(map(len, texts)) <= MOST for texts in (left, right)),
    )


def beginnings(texts: Sequence[str]) -> list[str]:
    """As much of each text as is compared."""
    starts = accumulate(map(len, texts), initial=0)
    return [text[: max(0, MOST - start)] for text, start in zip(texts, starts, strict=False)]


def _shared(one: list[str], two: list[str], steps: int) -> tuple[list[tuple[int, int, int]], bool]:
    """Blocks (place in one, place in two, words) that both have, in order; and whether the search came to its end."""
    same = 0
    while same < min(len(one), len(two)) and one[same] == two[same]:
        same += 1
    tail = 0
    while tail < min(len(one), len(two)) - same and one[-1 - tail] == two[-1 - tail]:
        tail += 1
    blocks = [(0, 0, same), (len(one) - tail, len(two) - tail, tail)]
    matcher: Any = SequenceMatcher(None, one, two, autojunk=False)  # its index is documented, and not typed
    cost = _cost(matcher, one)
    if 20 * cost[-1] > steps:
        # Many passes would take too long. Words that are everywhere then only prolong what begins with others.
        matcher = SequenceMatcher(None, one, two)
        cost = _cost(matcher, one)
    waiting = [(same, len(one) - tail, same, len(two) - tail)]
    while waiting:
        i, i_end, j, j_end = waiting.pop(0)
        steps -= cost[i_end] - cost[i]
        if steps < 0:
            return _kept(sorted(blocks), one), False
        found = matcher.find_longest_match(i, i_end, j, j_end)
        if found.size:
            blocks.append((found.a, found.b, found.size))
            after = (found.a + found.size, i_end, found.b + found.size, j_end)
            waiting += [part for part in ((i, found.a, j, found.b), after) if part[0] < part[1] and part[2] < part[3]]
    return _kept(sorted(blocks), one), not matcher.bpopular


def _cost(matcher: Any, one: list[str]) -> list[int]:
    """What a pass over the first n words of `one` costs: it looks at every place of each of them in the other text."""
    return list(accumulate((len(matcher.b2j.get(word, ())) + 1 for word in one), initial=0))


def _kept(blocks: list[tuple[int, int, int]], one: list[str]) -> list[tuple[int, int, int]]:
    """Adjacent blocks joined, and without those of a few letters amid what differs, which only make it hard to read."""
    joined: list[tuple[int, int, int]] = []
    for i, j, size in blocks:
        if joined and joined[-1][0] + joined[-1][2] == i and joined[-1][1] + joined[-1][2] == j:
            joined[-1] = (joined[-1][0], joined[-1][1], joined[-1][2] + size)
        elif size:
            joined.append((i, j, size))
    ends = {0, len(one)}
    return [
        (i, j, size) for i, j, size in joined if i in ends or i + size in ends or sum(map(len, one[i : i + size])) > 3
    ]


def _marked(
    texts: Sequence[str], tokens: Sequence[Sequence[tuple[str, str]]], shared: Sequence[tuple[int, int]]
) -> tuple[Markup, ...]:
    """The texts of a side; `shared` has places and sizes of blocks, counted over all of its tokens."""
    made, first = [], 0
    for text, own in zip(texts, tokens, strict=True):
        last = first + len(own)
        here = [(max(i, first) - first, min(i + size, last) - first) for i, size in shared]
        head = text[: len(text) - len(text.lstrip())]
        pieces = Markup("").join(_pieces(own, [(start, end) for start, end in here if start < end]))
        made.append(Markup('<pre class="plain">{}{}</pre>').format(head, pieces))
        first = last
    return tuple(made)


def _pieces(tokens: Sequence[tuple[str, str]], shared: Sequence[tuple[int, int]]) -> Iterator[Markup]:
    place = 0
    for start, end in [*shared, (len(tokens), len(tokens))]:
        if place < start:
            words = "".join(word + space for word, space in tokens[place:start])
            bare = words.rstrip()
            yield Markup("<mark>{}</mark>{}").format(bare, words[len(bare) :])
        yield escape("".join(word + space for word, space in tokens[start:end]))
        place = end
