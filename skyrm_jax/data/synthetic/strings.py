"""Edits of letter strings and words."""

from collections.abc import Sequence

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Slots, Task
from skyrm_jax.data.synthetic.words import WORDS

JOINERS = {"a dash": "-", "a plus": "+", "a slash": "/"}
TIMES = {"once": 1, "twice": 2, "thrice": 3}


def _repeat(draw: Draw) -> Draft:
    word, other = draw.sample(WORDS, 2)
    times = draw.sample(tuple(TIMES), 3)
    c = [" ".join([w] * TIMES[t]) for w, t in ((word, times[0]), (word, times[1]), (word, times[2]), (other, times[0]))]
    return Draft({"word": word, "times": times[0]}, c[:1], c[1:])


def _solve_repeat(slots: Slots) -> Sequence[str]:
    return (" ".join([slots["word"]] * TIMES[slots["times"]]),)


def _join(draw: Draw) -> Draft:
    first, second, other = draw.sample(WORDS, 3)
    (name, sign), *wrong = draw.sample(tuple(JOINERS.items()), 3)
    contents = [
        first + sign + second,
        *(first + w + second for _, w in wrong),
        first + sign + other,
        other + sign + second,
    ]
    return Draft({"first": first, "second": second, "joiner": name}, contents[:1], contents[1:])


def _solve_join(slots: Slots) -> Sequence[str]:
    return [slots["first"] + JOINERS[slots["joiner"]] + slots["second"]]


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
        Task(("Join {first} and {second} with {joiner}.",), _join, _solve_join),
        Task(("Write {word} in {case}.",), _capitals, _solve_capitals),
    ),
)
