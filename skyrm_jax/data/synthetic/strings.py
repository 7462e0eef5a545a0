"""Edits of letter strings and words."""

from collections.abc import Collection, Mapping

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Task
from skyrm_jax.data.synthetic.words import LETTERS, WORDS


def _reverse(draw: Draw) -> Draft:
    letters = draw.sample(LETTERS, 3)
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    contents = [" ".join(letters[k] for k in order) for order in draw.sample(orders, 4)]
    return Draft({"letters": contents[0][::-1]}, contents[:1], contents[1:])


def _solve_reverse(slots: Mapping[str, str]) -> Collection[str]:
    return (slots["letters"][::-1],)


def _replace(draw: Draw) -> Draft:
    a, b, *rest = draw.sample(LETTERS, 6)
    contents = [f"{a} {x}" if draw.chance(0.5) else f"{x} {a}" for x in rest]
    right = contents[0]
    slots = {"old": b, "new": a, "letters": right.replace(a, b)}
    return Draft(slots, [right], contents[1:])


def _solve_replace(slots: Mapping[str, str]) -> Collection[str]:
    return (slots["letters"].replace(slots["old"], slots["new"]),)


def _capitals(draw: Draw) -> Draft:
    word, *others = draw.sample(WORDS, 3)
    upper = draw.chance(0.5)
    contents = [word.upper(), word, *(other.upper() if draw.chance(0.5) else other for other in others)]
    if not upper:
        contents[0], contents[1] = contents[1], contents[0]
    return Draft({"word": word, "case": "capitals" if upper else "small letters"}, contents[:1], contents[1:])


def _solve_capitals(slots: Mapping[str, str]) -> Collection[str]:
    return ({"capitals": str.upper, "small letters": str.lower}[slots["case"]](slots["word"]),)


def _end(draw: Draw) -> Draft:
    words = draw.sample(WORDS, 4)
    side = draw.pick(("first", "last"))
    at = 0 if side == "first" else -1
    right = words[0][at]
    wrong = {w[at] for w in words[1:]} | {words[0][-1 - at]}
    return Draft({"word": words[0], "side": side}, [right], sorted(wrong - {right}))


def _solve_end(slots: Mapping[str, str]) -> Collection[str]:
    return (slots["word"][{"first": 0, "last": -1}[slots["side"]]],)


STRINGS = Family(
    "strings",
    (
        Task(("Reverse the letters {letters}.", "Write {letters} backwards."), _reverse, _solve_reverse),
        Task(("Replace {old} by {new} in {letters}.", "In {letters} put {new} for {old}."), _replace, _solve_replace),
        Task(("Write the word {word} in {case}.", "Put {word} in {case}."), _capitals, _solve_capitals),
        Task(("What is the {side} letter of {word}?", "Give the {side} letter of the word {word}."), _end, _solve_end),
    ),
)
