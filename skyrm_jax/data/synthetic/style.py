"""Style lures: a flashy wrong answer beside a plain right one, and as often a plain wrong one beside a flashy right one."""

from collections.abc import Sequence

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Slots, Task
from skyrm_jax.data.synthetic.wording import FLASHY, PLAIN

OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("wet", "dry"),
    ("day", "night"),
    ("old", "new"),
)
OPPOSITE = dict(OPPOSITES) | {b: a for a, b in OPPOSITES}


def _opposite(draw: Draw) -> Draft:
    word, *others = draw.sample(tuple(OPPOSITE), 4)
    right = OPPOSITE[word]
    return Draft({"word": word}, [right], [w for w in others if w != right])


def _solve(slots: Slots) -> Sequence[str]:
    return (OPPOSITE[slots["word"]],)


STYLE = Family(
    "style",
    (
        Task(
            (
                "What is the opposite of {word}?",
                "Name the opposite of {word}.",
            ),
            _opposite,
            _solve,
            PLAIN + FLASHY,
        ),
    ),
    lures=True,
)
