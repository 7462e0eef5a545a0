"""Which words two texts do not share, in bounded time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Any

from markupsafe import Markup, escape

from skyrm_jax.annotate.rendering import visible

MOST = 100_000
"""Characters of each text that are compared."""
STEPS = 5_000_000
"""Of the search for what is shared, about a second's worth; what remains then counts as different."""

_TOKEN = re.compile(r"(\w+|[^\w\s])(\s*)")


@dataclass(frozen=True, slots=True)
class Difference:
    """Two texts with the words marked that only one of them has.

    Attributes:
        left, right: HTML, safe.
        shared: of all words, how many both have; 0 to 1.
        whole: everything was compared as finely as can be.
    """

    left: Markup
    right: Markup
    shared: float
    whole: bool


def difference(left: str, right: str, steps: int = STEPS) -> Difference:
    """Compares words and marks, not the spaces between them."""
    texts = [visible(text[:MOST]) for text in (left, right)]
    one, two = ([(match[1], match[2]) for match in _TOKEN.finditer(text)] for text in texts)
    blocks, finished = _shared([word for word, _ in one], [word for word, _ in two], steps)
    heads = [text[: len(text) - len(text.lstrip())] for text in texts]
    count = sum(size for _, _, size in blocks)
    return Difference(
        _marked(one, [(i, size) for i, _, size in blocks], heads[0]),
        _marked(two, [(j, size) for _, j, size in blocks], heads[1]),
        2 * count / (len(one) + len(two)) if one or two else 1.0,
        finished and len(left) <= MOST and len(right) <= MOST,
    )


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


def _marked(tokens: list[tuple[str, str]], shared: list[tuple[int, int]], head: str) -> Markup:
    def pieces() -> Iterator[Markup]:
        place = 0
        for start, size in [*shared, (len(tokens), 0)]:
            if place < start:
                words = "".join(word + space for word, space in tokens[place:start])
                bare = words.rstrip()
                yield Markup("<mark>{}</mark>{}").format(bare, words[len(bare) :])
            yield escape("".join(word + space for word, space in tokens[start : start + size]))
            place = start + size

    return Markup('<pre class="plain">{}{}</pre>').format(head, Markup("").join(pieces()))
