"""Comparisons with a truth that a program can check: the quickstart's data, and a gold oracle for later work.

`generate` makes them; `oracle` says from the prompt's text alone whether a response is right, whatever the labels say.
The categories of the comparisons are the families below.
"""

from collections.abc import Iterator
from dataclasses import replace

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.synthetic.arithmetic import ARITHMETIC
from skyrm_jax.data.synthetic.compose import compose
from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.formats import FORMATS
from skyrm_jax.data.synthetic.lists import LISTS
from skyrm_jax.data.synthetic.safety import SAFETY
from skyrm_jax.data.synthetic.strings import STRINGS
from skyrm_jax.data.synthetic.style import STYLE
from skyrm_jax.data.synthetic.units import UNITS
from skyrm_jax.errors import UserError

FAMILIES = (ARITHMETIC, STRINGS, LISTS, UNITS, FORMATS, SAFETY, STYLE)
FEWEST, MOST = 2, 8
"""Responses of a comparison."""


def generate(
    count: int, seed: int = 0, noise: float = 0.0, lures: float = 0.0, most: int = MOST
) -> Iterator[Comparison]:
    """`count` comparisons; every right response is preferred to every wrong one.

    Comparison i depends on `seed` and i alone. `noise` (0..1) is the chance that a preference is turned round;
    texts and order are those of noise 0. `lures` (0..1) is the chance that plain answers stand against flashy ones
    outside of the family that is about that too; `most` responses a comparison has. Raises UserError for a negative
    count, a share outside 0..1, or fewer than FEWEST responses.
    """
    if count < 0:
        raise UserError(f"count {count} is negative; ask for 0 comparisons or more")
    if not 0 <= noise <= 1:
        raise UserError(f"noise {noise} is not a share; give 0 (all labels true) to 1 (all turned round)")
    if not 0 <= lures <= 1:
        raise UserError(f"lures {lures} is not a share; give 0 to 1")
    if most < FEWEST:
        raise UserError(f"most {most} is too few; a comparison has at least {FEWEST} responses")
    return (_comparison(seed, index, noise, lures, most) for index in range(count))


def oracle(prompt: str, response: str) -> bool:
    """Whether `response` is a right answer to `prompt`, from their texts alone.

    Raises UserError if `prompt` is none of the synthetic ones.
    """
    for family in FAMILIES:
        verdict = family.check(prompt, response)
        if verdict is not None:
            return verdict
    raise UserError(f"no synthetic family asks {prompt!r}: the oracle knows the prompts of `generate` only")


def truth(comparison: Comparison) -> list[bool]:
    """The oracle's verdict on every response of a synthetic comparison, as generated or read back from a file."""
    prompt = comparison.prompt[-1].content
    return [oracle(prompt, response[-1].content) for response in comparison.responses]


def _comparison(seed: int, index: int, noise: float, lures: float, most: int) -> Comparison:
    draw = Draw(f"{seed}/{index}")
    family = draw.pick(FAMILIES)
    lured = Draw(f"{seed}/{index}/lure").chance(lures)
    made = compose(draw, family, FAMILIES, draw.number(FEWEST, most), lured)
    clean = Comparison.of(
        made.prompt,
        made.responses,
        chosen=[k for k, right in enumerate(made.right) if right],
        id=f"{family.name}-{seed}-{index}",
        source="synthetic",
        category=family.name,
    )
    labels = Draw(f"{seed}/{index}/labels")
    return replace(
        clean,
        preferences=tuple(
            replace(p, winner=p.loser, loser=p.winner) if labels.chance(noise) else p for p in clean.preferences
        ),
    )
