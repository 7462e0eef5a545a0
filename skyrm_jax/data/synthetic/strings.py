"""Edits of letter strings and words."""

from collections.abc import Sequence

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Slots, Task
from skyrm_jax.data.synthetic.words import LETTERS, WORDS

TIMES = {"once": 1, "twice": 2, "thrice": 3}


def _repeat(draw: Draw) -> Draft:
    word, other = draw.sample(WORDS, 2)
    times = draw.sample(tuple(TIMES), 3)
    c = [" ".join([w] * TIMES[t]) for w, t in ((word, times[0]), (word, times[1]), (word, times[2]), (other, times[0]))]
    return Draft({"word": word, "times": times[0]}, c[:1], c[1:])


def _solve_repeat(slots: Slots) -> Sequence[str]:
    return (" ".join([slots["word"]] * TIMES[slots["times"]]),)


def _replace(draw: Draw) -> Draft:
    a, b, c, d = draw.sample(LETTERS, 4)
    flip = draw.chance(0.5)
    contents = [f"{y} {x}" if flip else f"{x} {y}" for x, y in ((a, b), (a, c), (c, b), (d, b))]
    slots = {"old": c, "new": b, "letters": contents[0].replace(b, c)}
    return Draft(slots, contents[:1], contents[1:])


def _solve_replace(slots: Slots) -> Sequence[str]:
    return (slots["letters"].replace(slots["old"], slots["new"]),)


def _capitals(draw: Draw) -> Draft:
    word, *others = draw.sample(WORDS, 3)
    upper = draw.chance(0.5)
    contents = [word.upper(), word, *(other.upper() if draw.chance(0.5) else other for other in others)]
    if not upper:
        contents[0], contents[1] = contents[1], contents[0]
    return Draft({"word": word, "case": "capitals" if upper else "small letters"}, contents[:1], contents[1:])


def _solve_capitals(slots: Slots) -> Sequence[str]:
    return ({"capitals": str.upper, "small letters": str.lower}[slots["case"]](slots["word"]),)


STRINGS = Family(
    "strings",
    (
        Task(("Say {word} {times}.",), _repeat, _solve_repeat),
        Task(("Replace {old} by {new} in {letters}.",), _replace, _solve_replace),
        Task(("Write {word} in {case}.",), _capitals, _solve_capitals),
    ),
)
