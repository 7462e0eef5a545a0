"""Instructions about the form of the answer: brackets, capitals, quotes and so on, and what to name."""

from collections.abc import Sequence

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Slots, Task
from skyrm_jax.data.synthetic.wording import AS_IS
from skyrm_jax.data.synthetic.words import WORDS

PUNCTUATION = {
    "in brackets": "({})",
    "in quotes": '"{}"',
    "as a bullet point": "- {}",
    "in bold": "**{}**",
    "with a question mark": "{}?",
    "with an exclamation mark": "{}!",
}
KINDS = {
    "an animal": ("bird", "fish", "frog"),
    "a food": ("cake", "jam", "salt"),
    "a thing": ("boat", "door", "lamp"),
}


def _write(draw: Draw) -> Draft:
    words = draw.sample(WORDS, 3)
    formats = draw.sample(tuple(PUNCTUATION), 3)
    right = PUNCTUATION[formats[0]].format(words[0])
    wrong = [PUNCTUATION[f].format(w) for f in formats for w in words if (f == formats[0]) != (w == words[0])]
    return Draft({"word": words[0], "format": formats[0]}, [right], wrong)


def _solve_write(slots: Slots) -> Sequence[str]:
    return (PUNCTUATION[slots["format"]].format(slots["word"]),)


def _name(draw: Draw) -> Draft:
    kinds = draw.sample(tuple(KINDS), 2)
    formats = draw.sample(tuple(PUNCTUATION), 2)
    right = [PUNCTUATION[formats[0]].format(w) for w in KINDS[kinds[0]]]
    wrong = [PUNCTUATION[formats[1]].format(draw.pick(KINDS[kinds[0]])) for _ in range(2)]
    wrong += [PUNCTUATION[formats[0]].format(w) for w in draw.sample(KINDS[kinds[1]], 3)]
    return Draft({"kind": kinds[0], "format": formats[0]}, right, sorted(set(wrong)))


def _solve_name(slots: Slots) -> Sequence[str]:
    return tuple(PUNCTUATION[slots["format"]].format(w) for w in KINDS[slots["kind"]])


FORMATS = Family(
    "formats",
    (
        Task(("Put {word} {format}.",), _write, _solve_write, AS_IS),
        Task(("Name {kind}, {format}.",), _name, _solve_name, AS_IS),
    ),
)
